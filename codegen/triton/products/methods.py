"""How a product's codes become numbers: by a strategy, by tables in memory, or as integers."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache

from ....compiler.decoding import Base, base_of
from ....compiler.format import Format
from ....compiler.physical import BYTES, NATURAL
from ....compiler.product import NoIntegerProduct, integer_grids
from ..snippets import Snippet, closed
from ..strategies import Cost, by_select, integer_bytes, strategies_of
from .decoded import PAIR_COST, Decoded, Mixed
from .functions import Function, of_body, of_snippet
from .method import Method, Use, for_both, half_arithmetic, half_words, lookup


@dataclass(frozen=True)
class Table(Method):
    """Every code's value is looked up in memory: in a GEMV as binary32."""

    @property
    def tables(self) -> dict[str, list[int]]:
        """The values, by select << bits | code."""
        if self.arithmetic == "single":
            return {"values": []}  # the bits that a decoder has
        return {"halves": half_words(self.fmt, self.base.grids)}

    def functions(self, use: Use) -> list[Function]:
        """The look-up of a word's eight codes."""
        values = f"{next(iter(self.tables))}_ptr"
        body = []
        for group in ("low", "high"):
            select = f"select_{'low' if use.blocks.shared else group}"
            start = f" + {select} * {1 << self.fmt.code_bits}" if use.blocks.takes_select else ""
            if start and (group == "low" or not use.blocks.shared):
                body.append(f"at = {values}{start}")
            for run, lines in enumerate(use.codes.of_word(group)):
                table = "at" if start else values
                body += [*lines, f"{group}_{run} = tl.load({table} + code)"]
        results = [f"{group}_{run}" for group in ("low", "high") for run in range(4)]
        body.append(f"return {', '.join(results)}")
        doc = "The values of eight codes: of the low group, then of the high one."
        return [of_body("_values", doc, [*use.codes.words, values, *use.blocks.selects], body)]

    def arguments(self, use: Use) -> list[str]:
        """The table, and the indices of grids in it."""
        return ["values_ptr", *use.selects]


@dataclass(frozen=True)
class PairTable(Method):
    """Two neighbours are looked up in memory at once, as a binary16 pair."""

    @cached_property
    def base(self) -> Base:
        """Grids that are no images of others."""
        return base_of(self.fmt)

    @property
    def cost(self) -> Cost:
        """See ``PAIR_COST``."""
        return PAIR_COST

    @property
    def tables(self) -> dict[str, list[int]]:
        """Binary16 values, by grid << 4 | code: pairs are made of them on the host."""
        return {"pairs": half_words(self.fmt, self.base.grids)}

    def functions(self, use: Use) -> list[Function]:
        """The look-up of a word's four bytes, and the arithmetic."""
        return [lookup("_pairs", use.blocks), *half_arithmetic(use.twin)]

    def helpers(self, use: Use) -> set[str]:
        """Those of the arithmetic."""
        del use
        return closed({"_fma2", "_sum2"})

    def arguments(self, use: Use) -> list[str]:
        """The table and where it begins."""
        return ["pairs_ptr", *use.selects]


@dataclass(frozen=True)
class Integers(Method):
    """Codes become int8, and meet int8 activations four at a time, exactly."""

    @cached_property
    def base(self) -> Base:
        """Every grid, its unit a factor of the scale."""
        grids = integer_grids(self.fmt)
        rows = tuple(
            tuple(Fraction(int(v)) for v in grids.values[i]) for i in range(len(self.fmt.grids))
        )
        units = tuple(Fraction(float(grids.units[i])) for i in range(len(rows)))
        alike = rows[:1] if all(row == rows[0] for row in rows) else rows
        of = tuple(min(i, len(alike) - 1) for i in range(len(rows)))
        return Base(alike, of, units, (Fraction(0),) * len(rows))

    @property
    def cost(self) -> Cost:
        """Permutations and a quarter of a multiply-add."""
        return Cost(2.2, 1.3)

    def functions(self, use: Use) -> list[Function]:
        """The decoding to bytes, and their products."""
        doc = "Eight codes as int8: four of the low group, four of the high one."
        arithmetic = Snippet()
        parts = [arithmetic.read(name) for name in ("p0", "p1", "x_low", "x_high", "low", "high")]
        arithmetic.give(
            arithmetic.do("dp4a", parts[0], parts[2], parts[4]),
            arithmetic.do("dp4a", parts[1], parts[3], parts[5]),
        )
        about = "Four products with each group's codes, added to the group's sum."
        return [
            of_snippet("_octets", doc, self._snippet(use), use.twin),
            of_snippet("_multiply_add", about, arithmetic, use.twin),
        ]

    def helpers(self, use: Use) -> set[str]:
        """Those of the decoding and of the products."""
        return closed(self._snippet(use).helpers() | {"_dp4a"})

    def arguments(self, use: Use) -> list[str]:
        """The select bits."""
        return use.selects

    def _snippet(self, use: Use) -> Snippet:
        s = Snippet()
        words = [s.read(name) for name in use.codes.words]
        chooses = [by_select(s, s.read(name)) for name in use.blocks.selects]
        rows = [[int(v or 0) for v in values] for values in self.base.grids]
        s.give(*integer_bytes(self.fmt, rows)(s, words, for_both(chooses)))
        return s


@lru_cache(maxsize=256)
def methods_of(fmt: Format) -> tuple[Method, ...]:
    """The methods of a kernel format: strategies first, the cheapest first, tables last."""
    both = ("gemv", "gemm")
    found: list[Method] = [
        Decoded(fmt, s.name, "half", both, s.order if fmt.code_bits >= 4 else None, s.least_arch, s)
        for s in strategies_of(fmt)
    ]
    if fmt.code_bits == 4:
        found += [
            Mixed(fmt, f"{s.name}_mixed{looked}", "half", ("gemv",), s.order, 80, s, looked)
            for s in strategies_of(fmt)
            if s.name in ("permute1", "permute2")
            for looked in (1, 2)
        ]
        found.append(PairTable(fmt, "pairs", "half", ("gemv",), NATURAL))
    if fmt.code_bits <= 4 and _fits_int8(fmt):
        order = NATURAL if fmt.code_bits == 4 else None
        found.append(Integers(fmt, "dp4a", "integer", ("gemv",), order))
    if not strategies_of(fmt):
        found.append(Table(fmt, "half_table", "half", ("gemm",), BYTES))
    return (*found, Table(fmt, "table", "single", ("gemv",), None))


def _fits_int8(fmt: Format) -> bool:
    try:
        values = integer_grids(fmt).values
    except NoIntegerProduct:
        return False
    # A zero point is subtracted from sums: it need not fit beside the values.
    return int(values.min()) >= -128 and int(values.max()) <= 127
