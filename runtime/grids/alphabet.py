"""The atom alphabet of SOP's pair search (arXiv:2605.14929), every atom as a host holds it.

An atom is *hosted* when each of its values is a point of the host that fills the decoder's table.
It may be multiplied by any number before that, since a block's scale makes up for it. Its largest
magnitude is brought to each integer of the upper half of HIF7's and HIF8's points, to each
multiple of 1/64 from 1/2 to 1 in E4M3, and every value takes the nearest point, the lower one on a
tie. Of the grids of which no two values meet:

* A host that has the atom exactly gets it so, as large as it can be.
* Otherwise the grid with the least squared error on 2048 seeded Gaussian blocks wins, under the
  scale rule and the grid's own ends; the larger one on a tie (to nine digits).

A hosted grid may err less than the atom that it stands for, as NF4 does in HIF7.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ...compiler.fitting import draw, errors_under_own_ends, normalised
from ...compiler.floats import named_float
from ...compiler.hosts import HIF_HOSTS
from ..errors import RefusedInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F64 = NDArray[np.float64]

#: Hosts that a search can be for.
HOSTS = ("hif7", "hif8", "e4m3", "fp32")

#: Atoms of 2^bits values: name -> the file that has it and its name there; no file: built in.
_ATOMS: dict[int, dict[str, tuple[str, str]]] = {
    2: {"LUT2": ("lut2", "lut2"), "INT2": ("", "int 2")},
    3: {"LUT3": ("lut3", "lut3"), "E2M0": ("", "e2m0"), "INT3": ("", "int 3")},
    4: {
        "NF4": ("nf4", "nf4"),
        "SH4": ("sh4", "sh4"),
        "BOF4": ("bof4", "bof4"),
        "BOF4-S": ("bof4s", "bof4s"),
        "SPLIT87": ("split87", "split87"),
        "AF4": ("af4", "af4"),
        "IQ4_NL": ("iq4_nl", "iq4_nl"),
        "MPO2A": ("mpo2", "mpo2_a"),
        "MPO2B": ("mpo2", "mpo2_b"),
        "E2M1": ("", "e2m1"),
        "INT4": ("", "int 4"),
    },
    5: {
        "NF5": ("nf5", "nf5"),
        "SH5": ("sh5", "sh5"),
        "E2M2": ("", "e2m2"),
        "INT5": ("", "int 5"),
    },
}  # fmt: skip
#: Block lengths that BOF4 and BOF4-S have codebooks of their own for.
_BY_BLOCK = (8, 16, 32, 64, 128)

#: Points per unit that stand for the numbers of binary32 where levels are chosen among points.
_FP32_STEPS = 128
_BLOCKS, _SEED = 2048, 1


@dataclass(frozen=True, slots=True)
class Hosted:
    """An atom in a host.

    Attributes:
        name: as ``NF4``, or ``-NF4`` for its negation.
        values: 2^bits exact values, ascending; a grid of fewer repeats its zero.
    """

    name: str
    values: tuple[Fraction, ...]

    @property
    def negated(self) -> Hosted:
        """Its mirror image, which every host here holds as well."""
        name = self.name[1:] if self.name.startswith("-") else f"-{self.name}"
        return Hosted(name, tuple(-value for value in reversed(self.values)))


def learned_name(bits: int) -> str:
    """What a grid of this width is called that is learned for a layer: ``DD4``."""
    return f"DD{bits}"


def atom_names(bits: int = 4) -> tuple[str, ...]:
    """The atoms of a width in the order in which the first of equals wins; the learned one last.

    Raises:
        RefusedInput: there are none.
    """
    if bits not in _ATOMS:
        raise RefusedInput(
            f"no atoms have {bits} bits: pairs are searched at {min(_ATOMS)} to {max(_ATOMS)} bits"
        )
    return (*_ATOMS[bits], learned_name(bits))


def atom_named(name: str, bits: int = 4) -> str:
    """The name as the alphabet has it, with its minus: ``nf4`` and ``-nf4`` are found too.

    Raises:
        RefusedInput: the alphabet of this width has no such atom.
    """
    sign, plain = ("-", name[1:]) if name.startswith("-") else ("", name)
    names = atom_names(bits)
    found = plain.upper()
    if found not in names:
        raise RefusedInput(
            f"no atom of {bits} bits is called '{plain}': there are {', '.join(names)}"
        )
    # A learned grid is free: its negation is nothing else.
    return found if found == learned_name(bits) else sign + found


def alphabet(
    names: Sequence[str], host: str, *, bits: int = 4, block: int = 16, rule: str = "absmax"
) -> tuple[Hosted, ...]:
    """Hosted atoms and their negations, without those that stand there already.

    Args:
        names: from ``atom_names``; the learned one is passed over.
        host: from ``HOSTS``.
        bits: of a code.
        block: elements of a block; BOF4's codebooks depend on it, and tops are chosen for it.
        rule: the scale rule that tops are chosen for.

    Raises:
        RefusedInput: there is no such host or atom, or the host has too few points for one.
    """
    found: dict[tuple[Fraction, ...], Hosted] = {}
    for name in names:
        known = atom_named(name, bits)
        if known == learned_name(bits):
            continue
        one = hosted(known, host, bits=bits, block=block, rule=rule)
        for each in (one, one.negated):
            found.setdefault(each.values, each)
    return tuple(found.values())


@lru_cache(maxsize=256)
def hosted(name: str, host: str, *, bits: int = 4, block: int = 16, rule: str = "absmax") -> Hosted:
    """One atom (``NF4``, ``-NF4``) as a host holds it; see ``alphabet``."""
    if name.startswith("-"):
        return hosted(name[1:], host, bits=bits, block=block, rule=rule).negated
    if host not in HOSTS:
        raise RefusedInput(f"no host is called '{host}': there are {', '.join(HOSTS)}")
    values = _atom_values(name, bits, block)
    if host != "fp32":
        values = _hosted_values(name, values, host, block, rule)
    return Hosted(name, _filled(values, 1 << bits))


def host_points(host: str) -> tuple[Fraction, ...]:
    """The points among which grids are learned, ascending and symmetric about 0.

    Of HIF7 -120..120 and of HIF8 -240..240 (the lowest point has no mirror image); of E4M3 those
    from -1 to 1; of binary32 the multiples of 1/128 from -1 to 1.
    """
    if host in HIF_HOSTS:
        words = HIF_HOSTS[host].words()
        return tuple(Fraction(word) for word in words if -word in words)
    if host == "fp32":
        return tuple(Fraction(i, _FP32_STEPS) for i in range(-_FP32_STEPS, _FP32_STEPS + 1))
    number = named_float(host)
    if number is None:
        raise RefusedInput(f"no host is called '{host}': there are {', '.join(HOSTS)}")
    return tuple(sorted({v for v in number.values() if v is not None and abs(v) <= 1}))


def tops_of(host: str) -> tuple[Fraction, ...]:
    """The points that a grid's largest magnitude can stand at, from the largest down.

    Below half the largest there is nothing new but coarser steps; of binary32 it is the largest.
    """
    points = host_points(host)
    if host == "fp32":
        return points[-1:]
    return tuple(point for point in reversed(points) if 2 * point > points[-1])


@lru_cache(maxsize=128)
def _atom_values(name: str, bits: int, block: int) -> tuple[Fraction, ...]:
    """The exact values of an atom, ascending, each once."""
    from ...formats import compile_text

    file, kind = _ATOMS[bits][name]
    if file in ("bof4", "bof4s") and block in _BY_BLOCK:
        file = kind = f"{file}_i{block}"
    source = f'import "{file}"\n' if file else ""
    fmt = compile_text(f"{source}format atom_of {{ block 1  grid g = {kind}  scale fp32 }}")
    return tuple(sorted({value for value in fmt.grids[0].values if value is not None}))


def _filled(values: tuple[Fraction, ...], count: int) -> tuple[Fraction, ...]:
    """As many values as there are codes: zero is repeated, or else the last."""
    spare = Fraction(0) if Fraction(0) in values else values[-1]
    return tuple(sorted((*values, *([spare] * (count - len(values))))))


def _hosted_values(
    name: str, values: tuple[Fraction, ...], host: str, block: int, rule: str
) -> tuple[Fraction, ...]:
    points = host_points(host)
    step = Fraction(1, 64) if host == "e4m3" else Fraction(1)
    sizes = [step * i for i in range(int(points[-1] / step), int(points[-1] / step) // 2, -1)]
    snapped = list(_snapped(values, points, sizes))
    if not snapped:
        raise RefusedInput(f"the host {host} has too few points for the atom {name}")
    for exact, found in snapped:
        if exact:
            return found
    blocks = normalised(draw("gaussian", 5, (_BLOCKS, block), _SEED), rule)
    best, least = snapped[0][1], float("inf")
    for found in dict.fromkeys(found for _, found in snapped):
        levels = np.array([float(value) for value in found])
        lost = float(blocks.weight @ errors_under_own_ends(blocks, levels / levels.max(), rule))
        if lost < least * (1 - 1e-9):
            best, least = found, lost
    return best


def _snapped(
    values: tuple[Fraction, ...], points: tuple[Fraction, ...], sizes: Sequence[Fraction]
) -> Iterator[tuple[bool, tuple[Fraction, ...]]]:
    """For every size, whether the host is exact there and the values that it has instead."""
    largest = max(abs(value) for value in values)
    for size in sizes:
        wanted = [value * size / largest for value in values]
        found = tuple(_nearest(value, points) for value in wanted)
        if len(set(found)) == len(found):
            yield found == tuple(wanted), found


def _nearest(value: Fraction, points: tuple[Fraction, ...]) -> Fraction:
    """The point nearest to a value within their reach, the lower one on a tie."""
    at = bisect_left(points, value)
    near = points[max(0, at - 1) : at + 1]
    return min(near, key=lambda point: (abs(point - value), point))
