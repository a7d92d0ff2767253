"""How a product kernel learns what the two groups of a unit are under: scales, grids, offsets."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import gcd

from ....compiler.decoding import Base
from ....compiler.format import Format
from ....compiler.view import view_of
from ..parts import call_text, head, magnitude_of_word
from ..plan import Plan, plan_of

#: Bits of a whole word -> how torch and a kernel see it, and two of them side by side.
_VIEWS = {8: "uint8", 16: "uint16", 32: "int32"}
_SIDE_BY_SIDE = {8: "uint16", 16: "int32", 32: "int64"}


@dataclass(frozen=True)
class Blocks:
    """What is read for blocks, and under which names.

    Attributes:
        fmt: a kernel format.
        base: which grids have a table, and what becomes of the others.
        power: value = decoded * 2^power; offsets are in units of decoded values.
        given: whether scales are given as binary32 numbers, not read from words.
    """

    fmt: Format
    base: Base
    power: int
    given: bool

    @cached_property
    def plan(self) -> Plan:
        """The format as the templates of encoders and decoders see it."""
        return plan_of(view_of(self.fmt))

    @property
    def shared(self) -> bool:
        """Whether both groups of a unit always lie in one block."""
        return self.fmt.block % 32 == 0

    @property
    def takes_select(self) -> bool:
        """Whether a table depends on a block's select bits."""
        return len(self.base.grids) > 1

    @property
    def offsets(self) -> str:
        """What stands beside a grid's values: ``before`` the scale, ``after`` it, or nothing."""
        if self.plan.zero == "minimum":
            return "after"
        return "before" if self.plan.zero == "point" or self.base.is_shifted else ""

    @property
    def groups(self) -> dict[str, str]:
        """The groups of a unit that have blocks of their own -> the block's place in a row."""
        block = self.fmt.block
        if self.shared:
            return {"low": "unit" if block == 32 else f"unit * 32 // {block}"}
        if block == 16:
            return {"low": "unit * 2", "high": "unit * 2 + 1"}
        return {"low": f"unit * 32 // {block}", "high": f"(unit * 32 + 16) // {block}"}

    @property
    def selects(self) -> list[str]:
        """Names of the indices of tables."""
        return [f"select_{group}" for group in self.groups] if self.takes_select else []

    @property
    def results(self) -> list[str]:
        """What is known of a unit's blocks, by name."""
        scales = [f"scale_{group}" for group in self.groups]
        offsets = [f"offset_{group}" for group in self.groups] if self.offsets else []
        return [*scales, *self.selects, *offsets]

    @property
    def of_row(self) -> dict[str, str]:
        """What a GEMV's row r knows of its blocks: name -> expression."""
        if len(self.results) == 1:
            return {self.results[0]: "blocks[r]"}
        return {name: f"blocks[r][{i}]" for i, name in enumerate(self.results)}

    @property
    def streams(self) -> list[str]:
        """Names of the tensors that a launch is given."""
        if self.given:
            names = ["scales", *(["selects"] if self.plan.reads_select else [])]
            return [*names, *(["zeros"] if self.plan.zero != "none" else [])]
        return ["scales", *(["select"] if self.fmt.select.place == "field" else [])]

    @property
    def tables(self) -> list[str]:
        """Names of the tables that scale words are looked up in."""
        return [] if self.given else list(self.plan.scale_tables)

    @property
    def pointers(self) -> list[str]:
        """The kernel's pointers, in their order."""
        return [f"{name}_ptr" for name in (*self.streams, *self.tables)]

    @property
    def launch(self) -> list[str]:
        """What a launch gives for the pointers."""
        return [self._launched(n) for n in self.streams] + [f'tables["{t}"]' for t in self.tables]

    @property
    def paired(self) -> bool:
        """Whether the words of a unit's two groups lie side by side, to be read as one."""
        if self.fmt.block != 16:
            return False
        whole = self.plan.view.scale.container in _SIDE_BY_SIDE
        return self.given or (whole and self.fmt.select.place != "field")

    @property
    def per_row(self) -> str:
        """The argument that says how many words a row has.

        Triton knows of an argument whether 16 divides it, and so how wide its loads may be.
        """
        return "pairs_per_row" if self.paired else "blocks_per_row"

    def values(self) -> dict[str, object]:
        """What the templates read."""
        arguments = [*self.pointers, "line", "unit", "here", self.per_row]
        scale_tables = [f"{name}_ptr" for name in self.tables]
        magnitude = "" if self.given else magnitude_of_word(self.plan)
        container = self.plan.view.scale.container
        return {
            "given": self.given,
            "per_row": self.per_row,
            "shared": self.shared,
            "takes_select": self.takes_select,
            "offsets": self.offsets,
            "groups": self.groups,
            "of": self.of_row,
            "block_names": self.streams,
            "blocks_results": self.results,
            "blocks_head": head("_blocks", arguments),
            "blocks_call": f"_blocks({', '.join(arguments)})",
            "blocks_assigned": {
                indent: call_text(f"{', '.join(self.results)} = _blocks", arguments, indent)
                for indent in (4, 8, 12)
            },
            "direct": len(self.results) == 1 and not self.given,
            "word_arguments": ", ".join(["word", *scale_tables]),
            "scale_value_arguments": ", ".join([magnitude, *scale_tables]),
            "word_select": self.plan.reads_select and self.fmt.select.place != "field",
            "paired": self.paired,
            "side_by_side": "" if self.given else _SIDE_BY_SIDE.get(container, ""),
            "paired_loads": self._paired_loads() if self.paired else [],
            "block_loads": {
                group: self._parts(group) if self.paired else self._loads(group)
                for group in self.groups
            },
            "factor": repr(float(self.base.factors[0])) if self._is_scaled else "",
            "factors": self._factors(),
            "shifts": self._shifts(),
            "renumbered": self._renumbered(),
        }

    @property
    def _is_scaled(self) -> bool:
        """Whether every scale has the same factor."""
        return set(self.base.factors) == {self.base.factors[0]} != {1}

    def _factors(self) -> list[tuple[int, str]]:
        if self._is_scaled:
            return []
        return [(i, repr(float(f))) for i, f in enumerate(self.base.factors) if f != 1]

    def _shifts(self) -> list[tuple[int, str]]:
        unit = Fraction(2) ** -self.power
        both = zip(self.base.shifts, self.base.factors, strict=True)
        return [(i, repr(float(s / f * unit))) for i, (s, f) in enumerate(both) if s]

    def _renumbered(self) -> list[tuple[int, int]]:
        """Select indices whose table has another index; 0 is the first table."""
        of = self.base.of
        if not self.takes_select or of == tuple(range(len(of))):
            return []
        return [(i, grid) for i, grid in enumerate(of) if grid]

    def _launched(self, name: str) -> str:
        container = self.plan.view.scale.container
        if self.paired:
            return f'_side_by_side(blocks["{name}"])'
        if self.given or name != "scales" or container not in (16, 32):
            return f'blocks["{name}"]'
        return f'blocks["{name}"].view(torch.{_VIEWS[container]})'

    def _zero(self, number: str) -> str:
        """A zero point or a minimum as an offset in units of decoded values."""
        sign = -1.0 if self.plan.zero == "point" else 1.0
        return f"{number} * {sign * 2.0**-self.power!r}"

    def _paired_loads(self) -> list[tuple[str, str]]:
        kinds = {"scales": "words", "selects": "grids", "zeros": "zeros"}
        return [
            (kinds[name], f"tl.load({name}_ptr + at, mask=there, other=0)") for name in self.streams
        ]

    def _parts(self, group: str) -> list[str]:
        """One group's part of what was read for two."""
        high = group == "high"
        if not self.given:
            bits = self.plan.view.scale.container
            down = f" >> {bits}" if high else ""
            if bits == 32:
                return [f"word = (words{down}).to(tl.int32)"]
            return [f"word = (words.to(tl.int32){down}) & 0x{(1 << bits) - 1:X}"]

        def number(words: str) -> str:
            return f"({words}{' >> 32' if high else ''}).to(tl.int32).to(tl.float32, bitcast=True)"

        lines = [f"scale_{group} = {number('words')}"]
        if self.plan.reads_select:
            lines.append(f"select_{group} = (grids.to(tl.int32){' >> 8' if high else ''}) & 255")
        if self.plan.zero != "none":
            lines.append(f"offset_{group} = {self._zero(number('zeros'))}")
        return lines

    def _loads(self, group: str) -> list[str]:
        """Lines that read what one group is under."""
        if not self.given:
            lines = _field("word", "scales_ptr", self.plan.view.scale.container)
            if self.fmt.select.place == "field":
                lines += _field(f"select_{group}", "select_ptr", self.fmt.select.bits)
            return lines
        lines = ["at = line * blocks_per_row + place"]
        alone = len(self.results) == 1
        taken = "return" if alone else f"scale_{group} ="
        lines.append(f"{taken} tl.load(scales_ptr + at, mask=there, other=0.0)")
        if self.plan.reads_select:
            load = "tl.load(selects_ptr + at, mask=there, other=0)"
            lines.append(f"select_{group} = {load}.to(tl.int32)")
        if self.plan.zero != "none":
            load = "tl.load(zeros_ptr + at, mask=there, other=0.0)"
            lines.append(f"offset_{group} = {self._zero(load)}")
        return lines


def _field(target: str, pointer: str, bits: int) -> list[str]:
    """Lines that read a field of so many bits, the ``place``-th of a row's."""
    if bits in _VIEWS:
        at = f"{pointer} + line * blocks_per_row + place"
        return [f"{target} = tl.load({at}, mask=there, other=0).to(tl.int32)"]
    octets = -(-(8 - gcd(bits, 8) + bits) // 8)
    lines = [
        f"bit = place * {bits}",
        f"at = {pointer} + line * ((blocks_per_row * {bits} + 7) // 8) + (bit >> 3)",
        f"{target} = tl.load(at, mask=there, other=0).to(tl.int32)",
    ]
    for i in range(1, octets):
        reached = 8 * i - bits
        mask = "there" if reached < 0 else f"there & ((bit & 7) > {reached})"
        more = f"tl.load(at + {i}, mask={mask}, other=0).to(tl.int32)"
        lines.append(f"{target} = {target} | ({more} << {8 * i})")
    return [*lines, f"{target} = ({target} >> (bit & 7)) & 0x{(1 << bits) - 1:X}"]
