"""Codes that a strategy decodes in registers, alone or sharing the work with a table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ....compiler.decoding import Base, base_of
from ..parts import head
from ..snippets import Snippet, closed
from ..strategies import Cost, Strategy, by_name, by_select
from .blocks import Blocks
from .functions import Function, of_snippet
from .method import PAIRS_DOC, Method, Use, for_both, half_arithmetic, half_words, lookup

#: A look-up for two values, in rows of memory that lanes share badly: it counts twice.
PAIR_COST = Cost(2.1, 1.4, 1.0)


@dataclass(frozen=True)
class Decoded(Method):
    """A strategy decodes words to pairs, in registers."""

    strategy: Strategy | None = None

    @property
    def by(self) -> Strategy:
        """The strategy."""
        if self.strategy is None:
            raise ValueError("a method of decoding has a strategy")
        return self.strategy

    @cached_property
    def base(self) -> Base:
        """Grids that are no images of others."""
        return base_of(self.fmt)

    @property
    def power(self) -> int:
        """The strategy's."""
        return self.by.power

    @property
    def top(self) -> int:
        """The strategy's."""
        return self.by.top

    @property
    def exact(self) -> bool:
        """The strategy's."""
        return self.by.exact

    @property
    def cost(self) -> Cost:
        """The strategy's."""
        return self.by.cost

    def loads(self, operation: str) -> bool:
        """Whether tables are loaded into registers: constants would be moved there ever again.

        In a GEMM, a register that is one for all would keep Triton from decoding in place.
        """
        return operation == "gemv" and self.name.startswith("permute")

    def prefixes(self, blocks: Blocks) -> list[str]:
        """What registers of tables begin with: of each group, where their tables differ."""
        return [f"{group}_" for group in blocks.groups] if blocks.takes_select else ["table_"]

    @cached_property
    def words(self) -> list[tuple[int, ...]]:
        """The words of the tables that are loaded, one of each grid, by their registers."""
        if not self.loads("gemv"):
            return []
        s = Snippet()
        seen: list[tuple[int, ...]] = []
        choose = by_name(s, "table_", seen)
        self.by.pairs(s, [s.read(name) for name in self.by.words], [choose, choose])
        return seen

    def snippet(self, operation: str, blocks: Blocks) -> Snippet:
        """The decoding of one word."""
        s = Snippet()
        words = [s.read(name) for name in self.by.words]
        if self.loads(operation):
            seen: list[tuple[int, ...]] = []
            chooses = [by_name(s, prefix, seen) for prefix in self.prefixes(blocks)]
        else:
            chooses = [by_select(s, s.read(name)) for name in blocks.selects]
        s.give(*self.by.pairs(s, words, for_both(chooses)))
        return s

    def functions(self, use: Use) -> list[Function]:
        """The decoding, and the arithmetic or the tile's scales."""
        snippet = self.snippet(use.operation, use.blocks)
        if use.operation == "gemv":
            pairs = of_snippet("_pairs", PAIRS_DOC, snippet, use.twin)
            return [pairs, *half_arithmetic(use.twin)]
        if use.twin:
            return [of_snippet("_pairs", PAIRS_DOC, snippet, True)]
        return [self.tile(use.blocks, True), *([self.tile(use.blocks, False)] if use.after else [])]

    def helpers(self, use: Use) -> set[str]:
        """Those of the decoding and of the arithmetic."""
        arithmetic = {"_fma2", "_sum2"} if use.operation == "gemv" else {"_low_half", "_high_half"}
        return closed(self.snippet(use.operation, use.blocks).helpers() | arithmetic)

    def arguments(self, use: Use) -> list[str]:
        """The registers of tables, or the select bits."""
        if not self.loads("gemv"):
            return use.selects
        count = len(self.words) * len(self.prefixes(use.blocks))
        tables = "grids[r]" if use.blocks.takes_select else "grids"
        return [tables] if count == 1 else [f"{tables}[{i}]" for i in range(count)]

    @property
    def tables(self) -> dict[str, list[int]]:
        """The words of the tables, an even number a grid."""
        if not self.words:
            return {}
        found = []
        for grid in range(len(self.words[0])):
            found += [words[grid] for words in self.words] + [0] * (len(self.words) % 2)
        return {"grids": found}

    def tile(self, blocks: Blocks, scaled: bool) -> Function:
        """The decoding of words to eight binary16 numbers each, with their scales or without."""
        s = Snippet()
        words = [s.read(name) for name in self.by.words]
        selects = [by_select(s, s.read(name)) for name in blocks.selects]
        pairs = self.by.pairs(s, words, for_both(selects))
        if scaled:
            kinds = ["scale", *(["offset"] if blocks.offsets else [])]
            twice = {
                f"{kind}_{group}": s.do("twice", s.read(f"{kind}_{group}", "h"))
                for kind in kinds
                for group in blocks.groups
            }
            for pair, group in zip(pairs, ("low", "low", "high", "high"), strict=True):
                of = "low" if blocks.shared else group
                offset = twice.get(f"offset_{of}", "")
                s.give(_scaled(s, pair, twice[f"scale_{of}"], offset, blocks.offsets))
        else:
            s.give(*pairs)
        name, what = ("_weights_of", "Weights") if scaled else ("_values_of", "Values")
        return Function(
            head=head(name, tuple(s.inputs)),
            doc=f"{what} of eight codes, as binary16: low group, high group.",
            arguments=tuple(s.inputs),
            outputs=("tl.float16",) * 8,
            constraints=",".join([*["=h"] * 8, *s.inputs.values()]),
            asm=tuple(s.ptx_of_halves([f"${8 + i}" for i in range(len(s.inputs))])),
        )


@dataclass(frozen=True)
class Mixed(Decoded):
    """Some words of a unit are decoded in registers, the others looked up: two pipes share them."""

    looked: int = 0

    @property
    def cost(self) -> Cost:
        """Of both, by their shares of the four words."""
        share, table = self.looked / 4, PAIR_COST
        mine = self.by.cost
        return Cost(
            mine.all * (1 - share) + table.all * share,
            mine.integer * (1 - share) + table.integer * share,
            mine.memory * (1 - share) + table.memory * share,
        )

    @property
    def tables(self) -> dict[str, list[int]]:
        """Those of both."""
        return {**super().tables, "pairs": half_words(self.fmt, self.base.grids)}

    def functions(self, use: Use) -> list[Function]:
        """Those of decoding, and the look-up."""
        return [*super().functions(use), lookup("_looked_up", use.blocks)]


def _scaled(s: Snippet, pair: str, scale: str, offset: str, offsets: str) -> str:
    """A decoded pair times its scale, with what stands beside it."""
    if offsets == "after":
        return s.do("fma2", pair, scale, offset)
    moved = s.do("add2", pair, offset) if offset else pair
    return s.do("mul2", moved, scale)
