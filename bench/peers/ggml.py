"""ggml's C: what llama.cpp does on a CPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .. import ggml
from ..ggml import U8
from ..measure import Contender
from ..work import F32, FEW, Peer, Work

#: Format -> the type of ggml that stores the same numbers, or else the nearest ones.
NEAREST = {
    "nvfp4": "nvfp4",
    "gguf_nvfp4": "nvfp4",
    "po2_nf4": "nvfp4",
    "sop_pair": "nvfp4",
    "four_six": "nvfp4",
    "mxfp4": "mxfp4",
    "gguf_mxfp4": "mxfp4",
    "nf4": "iq4_nl",
    "iq4_nl": "iq4_nl",
    "q4_0": "q4_0",
    "q4_1": "q4_1",
    "int4_asym_g128": "q4_1",
    "q4_k": "q4_K",
    "e2m3_ue4m4": "q6_K",
    "q8_0": "q8_0",
    "hif8_ue4m4": "q8_0",
    "mxfp8_e4m3": "q8_0",
    "mxint8": "q8_0",
    "dynamic8": "q8_0",
}
#: Types whose encoder is no search and needs no smaller piece of work.
QUICK = ("q4_0", "q8_0")
#: Types whose products are measured, and those that ggml repacks in eight rows on AVX2.
DOTS = ("nvfp4", "iq4_nl", "q4_0", "mxfp4", "q8_0")
REPACKED = ("iq4_nl", "q4_0", "mxfp4")


def packed(kind: str, x: F32) -> U8:
    """The matrix in one of ggml's types: some rows are encoded, and repeated."""
    few = np.ascontiguousarray(x[: max(8, len(x) // (8 * FEW))])
    rows = np.empty((len(few), ggml.row_bytes(kind, few.shape[1])), np.uint8)
    ggml.quantize(kind, few, rows)
    return np.resize(rows, (len(x), rows.shape[1]))


class Ggml(Peer):
    """Rows of ggml's types, by its reference encoders, decoders and vector products."""

    name = "ggml"
    threaded = True

    def decode(self, work: Work) -> Iterator[Contender]:
        """``dequantize_row_*``."""
        kind = NEAREST.get(work.format)
        if kind is None or work.dtype != "float32":
            return
        weights = packed(kind, work.x)
        out = np.empty_like(work.x)

        def run() -> None:
            work.rows(lambda a, b: ggml.dequantize(kind, weights[a:b], out[a:b]), len(out))

        yield Contender(f"ggml {kind.upper()}", out.size, run)

    def encode(self, work: Work) -> Iterator[Contender]:
        """``quantize_row_*_ref``."""
        kind = NEAREST.get(work.format)
        if kind is None:
            return
        x = work.x if kind in QUICK else work.few
        out = np.empty((len(x), ggml.row_bytes(kind, x.shape[1])), np.uint8)

        def run() -> None:
            work.rows(lambda a, b: ggml.quantize(kind, x[a:b], out[a:b]), len(out))

        yield Contender(f"ggml {kind.upper()}", x.size, run)

    def multiply(self, work: Work) -> Iterator[Contender]:
        """``ggml_vec_dot_f32`` on the unpacked matrix, and NVFP4 as the format of our width."""
        vector, out = work.vector, np.empty(len(work.x), np.float32)

        def run() -> None:
            work.rows(lambda a, b: ggml.dot_rows("f32", work.x, vector, out, a, b), len(out))

        yield Contender("ggml F32", work.x.size, run)
        yield self._dot(work, "nvfp4")

    def multiply_integers(self, work: Work) -> Iterator[Contender]:
        """``ggml_vec_dot_*_q8_0`` row by row, and the products of repacked rows.

        Beside NVFP4 all of them stand, beside other formats those that bars are about.
        """
        every = work.format == "nvfp4"
        for kind in DOTS if every else DOTS[:2]:
            yield self._dot(work, kind)
        if ggml.has_repacked():
            for kind in REPACKED if every else REPACKED[:1]:
                yield self._repacked(work, kind)

    @staticmethod
    def _dot(work: Work, kind: str) -> Contender:
        vector, out = work.vector, np.empty(len(work.x), np.float32)
        weights = packed(kind, work.x)
        activations = np.empty(ggml.row_bytes("q8_0", vector.size), np.uint8)
        function = f"{kind}_q8_0"

        def run() -> None:
            ggml.quantize_activations(vector, activations)
            work.rows(
                lambda a, b: ggml.dot_rows(function, weights, activations, out, a, b), len(out)
            )

        return Contender(f"ggml {kind.upper()} (int8)", work.x.size, run)

    @staticmethod
    def _repacked(work: Work, kind: str) -> Contender:
        vector, out = work.vector, np.empty(len(work.x), np.float32)
        weights = ggml.repack8(kind, packed(kind, work.x))
        activations = np.empty(ggml.row_bytes("q8_0", vector.size), np.uint8)

        def run() -> None:
            ggml.quantize_activations(vector, activations)
            work.rows(
                lambda a, b: ggml.multiply_repacked(kind, weights, activations, out, a, b),
                len(out),
                8,
            )

        return Contender(f"ggml {kind.upper()} (int8, 8 rows repacked)", work.x.size, run)
