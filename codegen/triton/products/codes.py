"""How a product kernel reads the planes of codes (``compiler.physical``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ....compiler.decoding import pad_code
from ....compiler.format import Format
from ....compiler.physical import PLANES
from ..strategies import WORDS

#: Bits of a plane's word over bytes: what a row's bytes are divided by.
_OCTETS = {8: 8, 4: 4, 2: 2, 1: 1}


@dataclass(frozen=True)
class Codes:
    """The planes of a format, read by words of eight codes."""

    fmt: Format
    order: tuple[int, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """Bits of the planes."""
        return PLANES[self.fmt.code_bits]

    @property
    def pointers(self) -> list[str]:
        """The kernel's pointers."""
        return [f"codes{width}_ptr" for width in self.widths]

    @property
    def words(self) -> list[str]:
        """Names of the words of the planes."""
        return [name for width in self.widths for name in WORDS[width]]

    def values(self) -> dict[str, object]:
        """What the templates read."""
        views = {8: "int32", 4: "int32", 2: "uint16"}
        order = ", ".join(map(str, self.order))
        return {
            "plane_widths": self.widths,
            "plane_views": [
                f"planes[{i}]" + (f".view(torch.{views[width]})" if width > 1 else "")
                for i, width in enumerate(self.widths)
            ],
            "word_octets": _OCTETS[self.widths[0]],
            "nibble_order": f"; its nibbles hold them in the order\n{order}"
            if 4 in self.widths
            else "",
        }

    def word_loads(self, place: str, mask: str) -> list[str]:
        """Lines that load words of rows.

        Args:
            place: which words, an expression.
            mask: of those that are there; empty: all are.
        """

        def masked(pad: int) -> str:
            return f", mask={mask}, other={pad}" if mask else ""

        lines = []
        for width in self.widths:
            if width == 8:
                pad = masked(self._repeated(8))
                lines += [
                    f"at = codes8_ptr + line * words * 2 + {place}",
                    f"low_word = tl.load(at{pad})",
                    f"high_word = tl.load(at + words{pad})",
                ]
            else:
                pad = masked(self._repeated(4) if width == 4 else 0)
                wide = "" if width == 4 else ".to(tl.int32)"
                lines.append(f"at = codes{width}_ptr + line * words + {place}")
                lines.append(f"{WORDS[width][0]} = tl.load(at{pad}){wide}")
        return lines

    def of_word(self, group: str) -> list[list[str]]:
        """Lines that make ``code``, for each of a word's four elements of a group."""
        found = []
        for run in range(4):
            element = run + (4 if group == "high" else 0)
            fields = []
            for width in self.widths:
                if width == 8:
                    place, name = 8 * run, f"{group}_word"
                else:
                    place = width * (self.order.index(element) if width == 4 else element)
                    name = WORDS[width][0]
                fields.append((width, f"({name} >> {place})" if place else name))
            found.append(_code("code", fields))
        return found

    def _repeated(self, bits: int) -> int:
        """The code behind the end of rows, in every place of a 32-bit word."""
        code = pad_code(self.fmt) & ((1 << bits) - 1)
        word = sum(code << at for at in range(0, 32, bits))
        return word - (1 << 32) if word >> 31 else word


def _code(target: str, fields: Sequence[tuple[int, str]]) -> list[str]:
    """Lines that put a code together from its fields, the lowest first."""
    lines, low = [], 0
    for width, shifted in fields:
        part = f"{shifted} & {(1 << width) - 1}"
        lines.append(f"{target} = {target} | (({part}) << {low})" if low else f"{target} = {part}")
        low += width
    return lines
