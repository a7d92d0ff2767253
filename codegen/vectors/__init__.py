"""Golden vectors: JSON lines for software, ``$readmemh`` files for the Verilog test benches.

Every number here comes from the reference encoder and decoder or from exact rationals,
never from the text of another back end.
"""

from __future__ import annotations

from ...compiler.format import Format
from .decode import decode_lines
from .encode import encode_lines
from .memory import decoder_memory, dot_memory


def emit(fmt: Format) -> dict[str, str]:
    """The vector files of a format: relative file name -> text.

    ``<fmt>_decode.jsonl`` and ``<fmt>_encode.jsonl`` begin with a header object that says what
    the other lines hold; ``<fmt>_decoder.memh`` and ``<fmt>_dot.memh`` feed the test benches.
    """
    return {
        f"{fmt.name}_decode.jsonl": decode_lines(fmt),
        f"{fmt.name}_encode.jsonl": encode_lines(fmt),
        f"{fmt.name}_decoder.memh": decoder_memory(fmt),
        f"{fmt.name}_dot.memh": dot_memory(fmt),
    }
