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
    """The planes of a format, by words for a GEMV, by tiles of bytes for a GEMM."""

    fmt: Format
    order: tuple[int, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """Bits of the planes."""
        return PLANES[self.fmt.code_bits]

    @staticmethod
    def names(width: int) -> tuple[str, ...]:
        """Names of the words of a plane."""
        return WORDS[width]

    @property
    def pointers(self) -> list[str]:
        """The kernel's pointers."""
        return [f"codes{width}_ptr" for width in self.widths]

    @property
    def words(self) -> list[str]:
        """Names of the words of the planes."""
        return [name for width in self.widths for name in WORDS[width]]

    def values(self, tiles: bool) -> dict[str, object]:
        """What the templates read; ``tiles``: of bytes, not of words."""
        views = {8: "int8" if tiles else "int32", 4: "int8" if tiles else "int32", 2: "uint16"}
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

    def word_loads(self) -> list[str]:
        """Lines that load the words of unit run ``i`` of a row."""
        lines = []
        for width in self.widths:
            if width == 8:
                pad = self._repeated(8)
                lines += [
                    "at = codes8_ptr + line * words * 2 + word + 4 * i",
                    f"low_word = tl.load(at, mask=here, other={pad})",
                    f"high_word = tl.load(at + words, mask=here, other={pad})",
                ]
            else:
                name = WORDS[width][0]
                pad, wide = (self._repeated(4), "") if width == 4 else (0, ".to(tl.int32)")
                lines.append(f"at = codes{width}_ptr + line * words + word + 4 * i")
                lines.append(f"{name} = tl.load(at, mask=here, other={pad}){wide}")
        return lines

    def tile_loads(self, even: bool) -> list[str]:
        """Lines that load a tile of rows: a byte, or its word's narrower field, for each place."""
        lines = []
        for width in self.widths:
            if width == 8:
                pad = "" if even else f", mask=live, other={self._signed_byte(8)}"
                lines += [
                    "at = codes8_ptr + line * words * 8 + place",
                    f"low_word = tl.load(at{pad})",
                    f"high_word = tl.load(at + words * 4{pad})",
                ]
            elif width == 4:
                pad = "" if even else f", mask=live, other={self._signed_byte(4)}"
                lines.append("at = codes4_ptr + line * words * 4 + place")
                lines.append(f"nibbles = tl.load(at{pad})")
            else:
                pad = "" if even else ", mask=word < words, other=0"
                lines.append(f"at = codes{width}_ptr + line * words + word")
                lines.append(f"{WORDS[width][0]} = _repeated(tl.load(at{pad}), rows, count)")
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

    def of_tile(self) -> list[str]:
        """Lines that make the codes of a tile, whose nibbles are in the order of bytes."""
        lines = []
        for group, high in (("low", 0), ("high", 1)):
            fields = []
            for width in self.widths:
                if width == 8:
                    fields.append((width, f"{group}_word.to(tl.int32)"))
                elif width == 4:
                    shifted = "(nibbles.to(tl.int32) >> 4)" if high else "nibbles.to(tl.int32)"
                    fields.append((width, shifted))
                else:
                    start = f"{4 * width} + " if high else ""
                    name = WORDS[width][0]
                    fields.append((width, f"({name}.to(tl.int32) >> ({start}run * {width}))"))
            lines += _code(f"code_{group}", fields)
        return lines

    def tile_words(self) -> list[str]:
        """The twin's words of the bytes of a tile."""
        return [
            f"{'_first' if width < 4 else '_word'}({name}, rows, count)"
            for width in self.widths
            for name in WORDS[width]
        ]

    def _repeated(self, bits: int) -> int:
        """The code behind the end of rows, in every place of a 32-bit word."""
        code = pad_code(self.fmt) & ((1 << bits) - 1)
        word = sum(code << at for at in range(0, 32, bits))
        return word - (1 << 32) if word >> 31 else word

    def _signed_byte(self, bits: int) -> int:
        octet = self._repeated(bits) & 0xFF
        return octet - 256 if octet > 127 else octet


def _code(target: str, fields: Sequence[tuple[int, str]]) -> list[str]:
    """Lines that put a code together from its fields, the lowest first."""
    lines, low = [], 0
    for width, shifted in fields:
        part = f"{shifted} & {(1 << width) - 1}"
        lines.append(f"{target} = {target} | (({part}) << {low})" if low else f"{target} = {part}")
        low += width
    return lines
