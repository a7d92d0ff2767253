"""gguf-py's NumPy functions."""

from __future__ import annotations

from collections.abc import Iterator

from ..measure import Contender
from ..work import Peer, Work

#: Format -> the type of gguf, and whether gguf-py encodes it.
KINDS = {
    "mxfp4": ("MXFP4", True),
    "nvfp4": ("NVFP4", False),
    "q4_0": ("Q4_0", True),
    "q8_0": ("Q8_0", True),
    "q4_k": ("Q4_K", False),
    "iq4_nl": ("IQ4_NL", False),
}


class Gguf(Peer):
    """``gguf.quants``."""

    name = "gguf-py"

    def encode(self, work: Work) -> Iterator[Contender]:
        """``quants.quantize``."""
        kind, encodes = KINDS.get(work.format, ("", False))
        if encodes:
            from gguf import GGMLQuantizationType, quants

            of, few = GGMLQuantizationType[kind], work.few
            yield Contender(f"gguf-py {kind} (NumPy)", few.size, lambda: quants.quantize(few, of))

    def decode(self, work: Work) -> Iterator[Contender]:
        """``quants.dequantize`` of bytes that any encoder may have written."""
        kind, _ = KINDS.get(work.format, ("", False))
        if not kind or work.dtype != "float32":
            return
        import numpy as np
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

        of = GGMLQuantizationType[kind]
        block, octets = GGML_QUANT_SIZES[of]
        rows, columns = work.few.shape
        records = np.random.default_rng(0).integers(
            1, 64, (rows, columns // block * octets), dtype=np.uint8
        )
        yield Contender(
            f"gguf-py {kind} (NumPy)", work.few.size, lambda: quants.dequantize(records, of)
        )
