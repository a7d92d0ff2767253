"""What a run measures, and what it leaves out when time is short."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

Shape = tuple[int, int]

#: Formats whose every kernel is checked: one and more grids, sides, given scales, 4 and 6 bits.
CHECKED = (
    *("mxfp4", "nvfp4", "nf4", "po2_nf4", "sop_pair", "sfp4"),
    *("e2m3_ue4m4", "int4_sym_g128", "q4_0", "nf4_dd4_opq_wr"),
)
#: Formats that are encoded and decoded at speed.
CODED = ("nvfp4", "mxfp4", "nf4", "int4_sym_g128", "e2m3_ue4m4", "po2_nf4", "sop_pair", "sfp4")
#: Formats of packed weights, the most important first.
MULTIPLIED = (
    *("nvfp4", "po2_nf4", "nf4", "mxfp4"),
    *("int4_sym_g128", "sop_pair", "e2m3_ue4m4", "q4_0"),
)
#: Of those, the ones that are multiplied with many rows, and in every shape with a few.
FIRST = 4

#: [rows, columns] of weights: projections of 7B and 70B models.
SHAPES = ((4096, 4096), (4096, 14336), (14336, 4096), (8192, 8192), (8192, 28672))
#: Rows of activations: decoding tokens, and reading a prompt.
FEW_ROWS, MANY_ROWS = (1, 2, 4, 8, 16, 32, 64), (512, 2048, 4096)


@dataclass(frozen=True)
class Plan:
    """One run.

    Attributes:
        checked: formats that are held against the reference.
        coded: formats that are encoded and decoded.
        multiplied: formats of packed weights, the most important first.
        check_shapes: [rows, columns] of what is checked; one of them should fit no tile.
        check_rows: rows of activations that are checked.
        shapes: [rows, columns] of weights.
        few: rows of activations.
        many: the same, for the first and the last shape.
        coded_shape: [rows, columns] of what is encoded and decoded.
        cold: bytes of all copies of a weight that take turns: many times the L2 cache.
        most_copies: at most so many copies of a weight.
        roof_bytes: of what is read, and copied, to measure memory.
        top: so many of the cheapest configurations are tried.
        vector_top: the same, for one row and the largest weight.
        encoded_rows: so many different rows a large weight has; they repeat.
        peers: whether other libraries are measured.
        budget: seconds for all of it.
        processes: that check at once; 0: this one.
        device: ``cuda``, or ``cpu`` for a dry run.
    """

    checked: tuple[str, ...] = CHECKED
    coded: tuple[str, ...] = CODED
    multiplied: tuple[str, ...] = MULTIPLIED
    check_shapes: tuple[Shape, ...] = ((128, 2048), (37, 1000))
    check_rows: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 16, 40, 200)
    shapes: tuple[Shape, ...] = SHAPES
    few: tuple[int, ...] = FEW_ROWS
    many: tuple[int, ...] = MANY_ROWS
    coded_shape: Shape = SHAPES[-1]
    cold: int = 512_000_000
    most_copies: int = 64
    roof_bytes: int = 1 << 31
    top: int = 4
    vector_top: int = 10
    encoded_rows: int = 256
    peers: bool = True
    budget: float = 480.0
    processes: int = 12
    device: str = "cuda"

    @property
    def ends(self) -> tuple[Shape, ...]:
        """The first and the last shape."""
        return tuple(dict.fromkeys((self.shapes[0], self.shapes[-1])))

    def only(self, formats: tuple[str, ...]) -> Plan:
        """The plan for these formats alone."""
        return replace(self, checked=formats, coded=formats, multiplied=formats)


def quick() -> Plan:
    """A look in about two minutes."""
    few = MULTIPLIED[:2]
    return Plan(
        checked=few,
        coded=few,
        multiplied=few,
        check_rows=(1, 8, 40),
        shapes=(SHAPES[0], SHAPES[-1]),
        few=(1, 8, 64),
        many=(2048,),
        top=2,
        vector_top=4,
        budget=150.0,
    )


def dry() -> Plan:
    """Everything once, on matrices that Triton's interpreter can take."""
    return Plan(
        check_shapes=((64, 256),),
        check_rows=(1, 3, 16),
        shapes=((64, 256), (96, 128)),
        few=(1, 16),
        many=(32,),
        coded_shape=(64, 256),
        cold=1 << 15,
        most_copies=2,
        roof_bytes=1 << 16,
        top=1,
        vector_top=1,
        encoded_rows=32,
        processes=0,
        device="cpu",
    )


@dataclass
class Budget:
    """The time of a run, and what did not fit.

    Attributes:
        seconds: for all.
        clock: seconds since some moment.
        dropped: what was left out.
    """

    seconds: float
    clock: Callable[[], float] = time.monotonic
    dropped: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start = self.clock()

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return self.clock() - self.start

    @property
    def left(self) -> float:
        """Seconds until the end; negative after it."""
        return self.seconds - self.spent

    def allows(self, what: str, until: float = 1.0) -> bool:
        """Whether there is time for it; if not, it counts as dropped.

        Args:
            what: the work, in words.
            until: the share of the budget after which this work is not begun.
        """
        if self.spent < until * self.seconds:
            return True
        self.dropped.append(what)
        return False
