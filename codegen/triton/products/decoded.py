"""Codes that a strategy decodes in registers, alone or sharing the work with a table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ....compiler.decoding import Base, base_of
from ..snippets import Snippet, closed
from ..strategies import Cost, Strategy, by_name, by_select
from .blocks import Blocks
from .codes import Codes
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
        return [self.tile(use.blocks, use.codes, scaled) for scaled in (False, True)]

    def helpers(self, use: Use) -> set[str]:
        """Those of the decoding and of the arithmetic."""
        arithmetic = {"_fma2", "_sum2"} if use.operation == "gemv" else set()
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

    def tile(self, blocks: Blocks, codes: Codes, scaled: bool) -> Function:
        """The decoding of four places of a tile's row at a time, with their scales or without."""
        s = Snippet()
        numbers: list[str] = []
        constraints: list[str] = []

        def read(name: str, registers: int) -> str:
            numbers.append(f"${4 + len(constraints)}")
            constraints.extend(["r"] * registers)
            return s.read(name)

        words = []
        for width in codes.widths:
            for name in Codes.names(width):
                word = read(name, 2 if width == 2 else 1)
                # A narrow plane's word comes once for each of its four places.
                words.append(s.do("and", word, (1 << 8 * width) - 1) if width < 4 else word)
        selects = [read(name, 1) for name in blocks.selects]
        if len(self.base.grids) > 2:
            selects = [s.do("and", select, 0xFF) for select in selects]
        pairs = self.by.pairs(s, words, for_both([by_select(s, select) for select in selects]))
        if scaled:
            scales = [read(f"scale_{group}", 2) for group in blocks.groups]
            kinds = blocks.groups if blocks.offsets else ()
            offsets = [read(f"offset_{group}", 2) for group in kinds]
            both = [(scales[i], offsets[i] if offsets else "") for i in (0, -1)]
            for i, pair in enumerate(pairs):
                s.give(_scaled(s, pair, *both[i // 2], blocks.offsets))
        else:
            s.give(*pairs)
        kind = "Weights" if scaled else "Codes"
        made = of_snippet("_tile" if scaled else "_plain_tile", "", s, False, ("tl.float16",) * 2)
        return Function(
            head=made.head,
            doc=f"{kind} of a tile as binary16: of the low groups, of the high groups.",
            arguments=made.arguments,
            outputs=made.outputs,
            constraints=",".join(["=r"] * 4 + constraints),
            asm=tuple(s.ptx(numbers)),
            pack=4,
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
