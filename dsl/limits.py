"""What no .fmt text may have: too much, too deep, or unseen."""

from __future__ import annotations

import re

#: Longest text that is read, in characters.
MAX_LENGTH = 1 << 20
#: Most operators and brackets on the way from an expression to its innermost number.
MAX_DEPTH = 100
#: Most bodies after ``as`` around each other.
MAX_NESTING = 8
#: Most faults that are reported of one text: what follows is seldom about the text.
MAX_FAULTS = 50

#: Control characters, and the separators that some programs, but not this one, take for the
#: end of a line. They would be unseen in an editor, and harmful in generated code.
FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]|\r(?!\n)")
