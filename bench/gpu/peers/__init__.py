"""The libraries that products are measured beside, one module each; all are optional.

None of them could be run where this was written. Each module says which version's sources it
was written from; ``measure`` holds every product against the dense one before it is timed, so
that a misread interface shows as ``wrong``, and not as a figure.
"""

from .base import Peer
from .bitsandbytes import BitsAndBytes
from .gemlite import GemLite
from .humming import Humming
from .scaled import DotScaled

#: All of them, the most telling first.
PEERS: tuple[Peer, ...] = (BitsAndBytes(), GemLite(), DotScaled(), Humming())
