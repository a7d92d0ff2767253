"""What every way to multiply by codes has: its arithmetic, its cost, and functions they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from ....compiler.decoding import Base, Values, half_table, top
from ....compiler.format import Format
from ..snippets import Snippet
from ..strategies import Choose, Cost
from .blocks import Blocks
from .codes import Codes
from .functions import Function, of_body, of_snippet

#: Eight products of a half below 2^15 with decoded values stay below 2^16.
GEMV_TOP, GEMM_TOP = 12, 15

PAIRS_DOC = "Eight codes as binary16 pairs: two of the low group, two of the high one."


@dataclass(frozen=True)
class Use:
    """What a method is used for.

    Attributes:
        operation: ``gemv`` or ``gemm``.
        blocks, codes: how the kernel reads them.
        twin: whether Triton statements stand for inline assembly.
    """

    operation: str
    blocks: Blocks
    codes: Codes
    twin: bool

    @property
    def after(self) -> bool:
        """Whether a GEMM may multiply a block's sum by its scale, and not each weight."""
        plain = not self.blocks.offsets and not self.blocks.takes_select
        return plain and self.blocks.fmt.block >= 128

    @property
    def selects(self) -> list[str]:
        """The indices of the tables of a GEMV's row."""
        return [self.blocks.of_row[name] for name in self.blocks.selects]


@dataclass(frozen=True)
class Method:
    """One way to multiply by codes.

    Attributes:
        fmt: a kernel format.
        name: what modules and the autotuner call it.
        arithmetic: ``half``, ``single`` or ``integer``.
        operations: where it can be used.
        order: of the nibbles of a word; None: any.
        least_arch: the least CUDA architecture.
    """

    fmt: Format
    name: str
    arithmetic: str
    operations: tuple[str, ...]
    order: tuple[int, ...] | None
    least_arch: int = 80

    @cached_property
    def base(self) -> Base:
        """Which grids have tables: here every one."""
        grids = tuple(grid.values for grid in self.fmt.grids)
        count = len(grids)
        return Base(grids, tuple(range(count)), (Fraction(1),) * count, (Fraction(0),) * count)

    @property
    def power(self) -> int:
        """Value = decoded * 2^power."""
        return half_table(self.base.grids).power if self.arithmetic == "half" else 0

    @property
    def top(self) -> int:
        """Every decoded magnitude is at most 2^top."""
        return top(self.base.grids) - self.power

    @property
    def exact(self) -> bool:
        """Whether decoded values are the grid's."""
        return self.arithmetic != "half" or half_table(self.base.grids).exact

    @property
    def cost(self) -> Cost:
        """What decoding a value takes."""
        return Cost(5.0, 3.1, 1.2)

    @property
    def tables(self) -> dict[str, list[int]]:
        """Tables in memory: name -> words, as the template of that name writes them."""
        return {}

    def functions(self, use: Use) -> list[Function]:
        """The functions that decode and multiply."""
        del use
        return []

    def helpers(self, use: Use) -> set[str]:
        """The twin's functions that those call."""
        del use
        return set()

    def arguments(self, use: Use) -> list[str]:
        """What a GEMV gives the decoding function of a word, besides its words."""
        del use
        return []


def lookup(name: str, blocks: Blocks) -> Function:
    """The look-up of a word's four bytes in a table of pairs."""
    apart = blocks.takes_select and not blocks.shared
    body = []
    for octet in range(4):
        if octet == 0 or (octet == 2 and apart):
            group = "high" if octet else "low"
            start = f" + select_{group} * 256" if blocks.takes_select else ""
            body.append(f"at = pairs_ptr{start}")
        shifted = f"(nibbles >> {8 * octet})" if octet else "nibbles"
        body.append(f"p{octet} = tl.load(at + ({shifted} & 255))")
    body.append("return p0, p1, p2, p3")
    return of_body(name, PAIRS_DOC, ["nibbles", "pairs_ptr", *blocks.selects], body)


def half_words(fmt: Format, grids: tuple[Values, ...]) -> list[int]:
    """Binary16 bits by index << bits | code; an index without a grid has those of the first."""
    rows = half_table(grids).rows
    count = 1 << max(fmt.select.bits, (len(rows) - 1).bit_length())
    return [bits for i in range(count) for bits in rows[i if i < len(rows) else 0]]


def half_arithmetic(twin: bool) -> list[Function]:
    """Multiply-adds of pairs, and a pair's sum."""
    s = Snippet()
    pairs = [s.read(f"p{i}") for i in range(4)]
    x_low, x_high = s.read("x_low", "l"), s.read("x_high", "l")
    low, high = s.read("low"), s.read("high")
    for (first, second), x, total in ((pairs[:2], x_low, low), (pairs[2:], x_high, high)):
        part = s.do("fma2", first, s.do("low", x), total)
        s.give(s.do("fma2", second, s.do("high", x), part))
    doc = "Four products with each group's pairs, added to the group's pair of sums."
    both = Snippet()
    both.give(both.do("sum2", both.read("pair")))
    about = "The binary32 sum of a pair."
    return [
        of_snippet("_multiply_add", doc, s, twin),
        of_snippet("_pair_sum", about, both, twin, ("tl.float32",)),
    ]


def for_both(chooses: Sequence[Choose]) -> list[Choose]:
    """A choice for each group, from one, from both, or from none where there is nothing to it."""
    found = list(chooses) or [_no_choice]
    return found * 2 if len(found) == 1 else found


def _no_choice(words: Sequence[int]) -> int:
    """The choice among one."""
    (word,) = set(words)
    return word
