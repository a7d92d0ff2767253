"""Which matrices belong together: those that kernels run as one share a format.

Serving engines stack the weights of q, k and v, and those of gate and up, into one matrix: they
read the same input. A plan that gave them different formats could not be served, so they are
one unit of the plan.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: Names of layers that are stacked, by the last part of their module's name.
FUSED = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("wq", "wk", "wv"),
    ("attn_q", "attn_k", "attn_v"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
    ("wi_0", "wi_1"),
    ("ffn_gate", "ffn_up"),
    ("ffn_gate_shexp", "ffn_up_shexp"),
)

_GROUP = {stem: group for group in FUSED for stem in group}
#: Attention whose keys and values read another sequence than its queries.
_CROSS = re.compile(r"cross|encoder_attn|encdec", re.IGNORECASE)
_NUMBERS = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class Unit:
    """Matrices that share a choice.

    Attributes:
        name: of a matrix alone its own; of stacked ones ``PARENT.q_proj+k_proj+v_proj.weight``.
        members: the weights' names, in the order in which they are stacked.
    """

    name: str
    members: tuple[str, ...]


def units_of(
    names: Sequence[str], shapes: Mapping[str, tuple[int, ...]], fuse: bool = True
) -> tuple[Unit, ...]:
    """Units of a model, in the order of its file, but layer 2 before layer 10.

    Stacked are matrices of one parent module whose names say so (``FUSED``) and whose rows are
    equally long. Unknown names, and attention over another sequence, make units of one matrix.

    Args:
        names: the matrices to quantize, in file order.
        shapes: of each its shape [out, in].
        fuse: whether there are units of several matrices at all.

    Raises:
        ValueError: a name stands twice.
    """
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the matrix '{twice}' is listed twice")
    groups: dict[tuple[object, ...], list[str]] = {}
    for name in names:
        groups.setdefault(_slot(name, shapes) if fuse else (name,), []).append(name)
    ranks = _ranks(names)
    units = [_unit(members) for members in groups.values()]
    return tuple(sorted(units, key=lambda unit: min(ranks[name] for name in unit.members)))


def _slot(name: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[object, ...]:
    """What matrices of one unit have in common."""
    parent, stem, suffix = _parts(name)
    group = _GROUP.get(stem)
    if group is None or _CROSS.search(parent) or len(shapes[name]) != 2:
        return (name,)
    return (parent, group, suffix, shapes[name][1])


def _parts(name: str) -> tuple[str, str, str]:
    """The parent module with its dot, the layer's own name, and ``.weight`` or nothing."""
    module = name.removesuffix(".weight")
    parent, dot, stem = module.rpartition(".")
    return parent + dot, stem, name[len(module) :]


def _unit(members: list[str]) -> Unit:
    if len(members) == 1:
        return Unit(members[0], (members[0],))
    parent, first, suffix = _parts(members[0])
    order = _GROUP[first]
    ordered = sorted(members, key=lambda name: order.index(_parts(name)[1]))
    stems = "+".join(_parts(name)[1] for name in ordered)
    return Unit(f"{parent}{stems}{suffix}", tuple(ordered))


def _ranks(names: Sequence[str]) -> dict[str, tuple[tuple[int, int], ...]]:
    """What puts names in order: texts by their first appearance, numbers by their value.

    A file lists ``layers.10`` before ``layers.2`` where it sorts its names as texts.
    """
    first: dict[tuple[str, ...], int] = {}
    ranks = {}
    for name in names:
        rank = []
        prefix: tuple[str, ...] = ()
        for index, token in enumerate(_NUMBERS.split(name)):
            number = index % 2
            place = first.setdefault((*prefix, "#" if number else token), len(first))
            rank.append((place, int(token) if number else 0))
            prefix = (*prefix, token)
        ranks[name] = tuple(rank)
    return ranks
