"""The libraries that fmtc is measured beside, one module each."""

from ..work import Peer
from .bitsandbytes import BitsAndBytes
from .ggml import Ggml
from .gguf import Gguf
from .ml_dtypes import MlDtypes
from .torch import Torch
from .torchao import TorchAo

#: All of them, in the order in which tables show them.
PEERS: tuple[Peer, ...] = (Ggml(), BitsAndBytes(), TorchAo(), Torch(), Gguf(), MlDtypes())
