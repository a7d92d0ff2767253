"""What one row of a tensor stores, item by item: the view that a record's layout is made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .format import Format

#: Items of two streams that order k_quants packs together, by their width.
K_QUANTS_ITEMS = {6: 8, 4: 1}


@dataclass(frozen=True, slots=True)
class Items:
    """The items of one stream: ``bits`` each, packed in ``order`` (see ``Stream``).

    Each belongs to ``elements`` neighbours of a row; None where it belongs to more than that: a
    whole row, the tensor, or a tile of several rows.
    """

    bits: int
    order: str
    elements: int | None

    def count(self, elements: int) -> int:
        """How many items ``elements`` neighbours have, a multiple of what shares an item.

        Raises:
            ValueError: an item belongs to more than neighbours of one row.
        """
        if self.elements is None:
            raise ValueError("these items do not belong to neighbours of one row")
        return elements // self.elements


def stream_items(fmt: Format) -> dict[str, Items]:
    """The items of every stream with a row per row of the tensor, by the stream's name.

    Scales or minima that are stored in a format of their own have that format's streams:
    ``scales.codes``, ``scales.scales`` and so on, to any depth.
    """
    block = fmt.block if fmt.extent == "block" and fmt.tile == 1 else None
    items = {
        stream.name: Items(stream.bits, stream.order, 1 if stream.per == "element" else block)
        for stream in fmt.streams
    }
    for name, owner in (("scales", fmt.scale), ("zeros", fmt.zero)):
        if owner is None or owner.stored is None:
            continue
        for part, item in stream_items(owner.stored).items():
            whole = block is None or item.elements is None or owner.flat
            elements = None if whole else (block or 0) * (item.elements or 0)
            items[f"{name}.{part}"] = Items(item.bits, item.order, elements)
    return items


def record_bytes(fmt: Format) -> int:
    """The bytes of one record: every stored bit of its elements, once."""
    if fmt.record is None:
        raise ValueError(f"the format '{fmt.name}' has no record")
    elements = fmt.record.elements
    return sum(item.bits * item.count(elements) for item in stream_items(fmt).values()) // 8
