"""What a run measures: formats, shapes, sizes and patience; one plan for each thread count."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

#: Four bits in blocks of 16 to 64, with one grid and with two.
FOUR_BITS = ("nvfp4", "mxfp4", "nf4", "po2_nf4", "sop_pair", "four_six")
#: Six and eight bits.
WIDER = ("e2m3_ue4m4", "hif8_ue4m4", "mxfp8_e4m3", "mxint8", "dynamic8")
#: Formats of files and of integers, whose scales are searched, stored or beside a minimum.
OTHERS = ("q4_0", "q8_0", "q4_k", "iq4_nl", "int4_asym_g128")

#: Matrices of 7B models: [rows, columns].
SHAPES = ((4096, 14336), (4096, 4096), (14336, 4096))
#: Formats of packed matrices: two grids, one grid of minifloats, and codebooks.
MULTIPLIED = ("nvfp4", "po2_nf4", "nf4", "iq4_nl")


@dataclass(frozen=True, slots=True)
class Plan:
    """One process's work.

    Attributes:
        threads: for every contender that uses more than one.
        seconds: patience with one contender of a group.
        decode: formats decoded to fp32.
        bfloat16: formats decoded to bf16.
        encode: formats encoded.
        multiply: formats of packed matrices; the first has all ``shapes``, the others one.
        shapes: rows and columns of those matrices.
        decoded: rows and columns of what is decoded.
        encoded: rows and columns of what is encoded.
        overhead: whether to measure what a call and a build cost.
        library: whether to measure every format of the library.
        pinned: whether to keep the process to as many cores as threads.
    """

    threads: int = 1
    seconds: float = 0.35
    decode: tuple[str, ...] = ()
    bfloat16: tuple[str, ...] = ()
    encode: tuple[str, ...] = ()
    multiply: tuple[str, ...] = ()
    shapes: tuple[tuple[int, int], ...] = SHAPES
    decoded: tuple[int, int] = (4096, 4096)
    encoded: tuple[int, int] = (2048, 4096)
    overhead: bool = False
    library: bool = False
    pinned: bool = True

    def to_json(self) -> str:
        """The plan as text, for the process that follows it."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Plan:
        """The plan that ``to_json`` wrote."""
        said = json.loads(text)
        for key, value in said.items():
            if isinstance(value, list):
                said[key] = tuple(tuple(v) if isinstance(v, list) else v for v in value)
        return Plan(**said)


def full(threads: int, *, library: bool) -> Plan:
    """Everything on one thread; on more, what the bars are about."""
    if threads == 1:
        return Plan(
            decode=FOUR_BITS + WIDER + OTHERS,
            bfloat16=FOUR_BITS,
            encode=FOUR_BITS + WIDER + OTHERS,
            multiply=MULTIPLIED,
            overhead=True,
            library=library,
        )
    return Plan(
        threads=threads,
        decode=FOUR_BITS,
        encode=FOUR_BITS,
        multiply=MULTIPLIED,
        shapes=SHAPES[:1],
    )


def quick(threads: int, *, library: bool) -> Plan:
    """A look in less than a minute."""
    few = ("nvfp4", "mxfp4", "nf4", "po2_nf4")
    return Plan(
        threads=threads,
        seconds=0.1,
        decode=few,
        encode=few,
        multiply=few[:1],
        shapes=SHAPES[1:2],
        overhead=threads == 1,
        library=library and threads == 1,
    )


def only(plan: Plan, formats: tuple[str, ...]) -> Plan:
    """The plan for these formats alone: each is decoded, encoded and multiplied."""
    return replace(
        plan,
        decode=formats,
        bfloat16=formats,
        encode=formats,
        multiply=formats,
        overhead=False,
        library=False,
    )
