"""What every candidate costs a unit, and what it loses: measured on the matrices, not modelled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...compiler.format import Side
from ...compiler.sides import residuals, to_streams
from ...formats import compile_text
from ..arrays import to_rows
from ..backend import U8
from ..choose import backend_for
from ..errors import CorruptFile, RefusedInput
from ..format import Format
from ..grids.metrics import Errors, errors_of
from ..manifest import entry_bound, text_bound
from ..quantized import QuantizedTensor
from .units import Unit

F32 = NDArray[np.float32]

#: Elements of a block of ACos, whatever a candidate's own blocks are: figures stay comparable.
ACOS_BLOCK = 16


@dataclass(frozen=True, slots=True)
class Choice:
    """A unit in one of its candidates.

    Attributes:
        label: ``base``, ``base.OPQ``, ``E2M3sUE4M4.Wr`` ...
        text: the .fmt text.
        octets: all that it adds to a checkpoint but the text: the streams of all members, their
            second levels, and no less than their names and entries.
        errors: of all members.
    """

    label: str
    text: str
    octets: int
    errors: Errors

    def to_json(self) -> dict[str, Any]:
        """JSON values that ``from_json`` reads back without a bit lost."""
        return {
            "label": self.label,
            "text": self.text,
            "octets": self.octets,
            "errors": errors_to_json(self.errors),
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> Choice:
        """The inverse of ``to_json``.

        Raises:
            CorruptFile: something is missing, or of another kind.
        """
        try:
            errors = errors_from_json(value["errors"])
            return Choice(str(value["label"]), str(value["text"]), int(value["octets"]), errors)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptFile(f"a damaged choice of a profile: {error!r}") from error


@dataclass(frozen=True, slots=True)
class UnitProfile:
    """A unit and its choices.

    Attributes:
        unit: which matrices.
        elements: of all of them.
        choices: in the order of the candidates.
        left_out: label and reason of every candidate that the unit cannot be stored in.
    """

    unit: Unit
    elements: int
    choices: tuple[Choice, ...]
    left_out: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON values that ``from_json`` reads back without a bit lost."""
        return {
            "unit": {"name": self.unit.name, "members": list(self.unit.members)},
            "elements": self.elements,
            "choices": [choice.to_json() for choice in self.choices],
            "left_out": [list(pair) for pair in self.left_out],
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> UnitProfile:
        """The inverse of ``to_json``.

        Raises:
            CorruptFile: something is missing, or of another kind.
        """
        try:
            unit = Unit(str(value["unit"]["name"]), tuple(map(str, value["unit"]["members"])))
            choices = tuple(Choice.from_json(choice) for choice in value["choices"])
            left_out = tuple((str(label), str(why)) for label, why in value["left_out"])
            return UnitProfile(unit, int(value["elements"]), choices, left_out)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptFile(f"a damaged profile of a unit: {error!r}") from error


def errors_to_json(errors: Errors) -> dict[str, int | str]:
    """Sums as JSON values; a float is written in hexadecimal, so that it comes back as it is."""
    values = asdict(errors)
    return {key: v.hex() if isinstance(v, float) else v for key, v in values.items()}


def errors_from_json(value: dict[str, int | str]) -> Errors:
    """The inverse of ``errors_to_json``.

    Raises:
        ValueError, TypeError: the values are not those of sums.
    """
    read: dict[str, Any] = {
        key: float.fromhex(v) if isinstance(v, str) else int(v) for key, v in value.items()
    }
    return Errors(**read)


def profile_unit(
    unit: Unit,
    load: Callable[[str], F32],
    norms: F32 | None,
    candidates: Sequence[tuple[str, str]],
) -> UnitProfile:
    """Store a unit in every candidate and measure the bytes and the errors of what was stored.

    One matrix is in memory at a time. Nothing but its bytes is measured: errors are those of
    the values that the stored streams decode to.

    Args:
        unit: which matrices.
        load: name -> float32 [out, in].
        norms: the channel norms c of their common input, float32 [in]; None: all 1.
        candidates: labels and .fmt texts, from ``candidates.candidate_texts``.

    Raises:
        FormatError: a text has faults.
        RefusedInput: a matrix cannot be stored at all, or in none of the candidates; or the
            norms are not those of its input.
        ValueError: two candidates have the same label.
    """
    formats = {label: compiled(text) for label, text in candidates}
    if len(formats) != len(candidates):
        raise ValueError("two candidates have the same label")
    octets = dict.fromkeys(formats, 0)
    errors = dict.fromkeys(formats, Errors())
    left_out: dict[str, str] = {}

    def measure(name: str) -> int:
        w = np.ascontiguousarray(load(name), np.float32)
        usable = [(k, f) for k, f in formats.items() if _fits(k, f, name, w.shape, left_out)]
        for label, stored in _stored(usable, name, w, norms):
            octets[label] += stored.nbytes + _beside(name, stored)
            errors[label] += errors_of(w, stored.to_float32(), norms, ACOS_BLOCK)
        return w.size

    # A function of its own, so that no matrix lives on while the next one is read.
    elements = sum(measure(name) for name in unit.members)
    choices = [
        Choice(label, text, octets[label], errors[label])
        for label, text in candidates
        if label not in left_out
    ]
    if not choices:
        reasons = "; ".join(f"{label}: {why}" for label, why in left_out.items())
        raise RefusedInput(f"{unit.name} fits none of the candidates: {reasons}")
    return UnitProfile(unit, elements, tuple(choices), tuple(left_out.items()))


@lru_cache(maxsize=512)
def compiled(text: str) -> Format:
    """The format of a .fmt text: all units ask for the same promotions."""
    return Format.of(compile_text(text, "candidate"))


def quantize_matrix(fmt: Format, w: Any, norms: F32 | None = None) -> QuantizedTensor:
    """A matrix in a format, its channel norms c where they count.

    Where a block picks among grids or scales, ``error weighted`` counts squared errors times
    c^2 and ``error cosine`` has c for its inner product. Residuals (``side wr``) are always
    ranked by |E| * c, as SOP has it: under ``error weighted`` too, where one vector of weights
    could not serve both. Bytes depend on the text, the matrix and c alone.

    Args:
        fmt: the format.
        w: NumPy array or torch tensor [out, in].
        norms: float32 [in], finite and not negative; None: all 1.
    """
    return next(q for _, q in _stored([("", fmt)], "", w, norms))


def _stored(
    formats: Iterable[tuple[str, Format]], name: str, w: Any, norms: F32 | None
) -> Iterable[tuple[str, QuantizedTensor]]:
    """A matrix in each of the formats; those that differ in ``wr`` alone share their streams."""
    if norms is not None:
        _check_norms(norms, w.shape[-1], name)
    groups: dict[Format, list[tuple[str, Format]]] = {}
    for label, fmt in formats:
        groups.setdefault(_without_residuals(fmt), []).append((label, fmt))
    for stem, members in groups.items():
        try:
            bare = stem.quantize(w, weights=_weights(stem, norms))
        except RefusedInput as error:
            raise RefusedInput(f"{name}: {error}" if name else str(error)) from error
        for label, fmt in members:
            yield label, (bare if fmt == stem else _with_residuals(fmt, bare, w, norms))


def _check_norms(norms: F32, length: int, name: str) -> None:
    if norms.shape != (length,) or not np.isfinite(norms).all() or (norms < 0).any():
        raise RefusedInput(
            f"{name}{': ' * bool(name)}channel norms are {length} finite numbers that are not "
            f"negative, one for each input; these are {norms.size}: were they made for this model?"
        )


@lru_cache(maxsize=512)
def _without_residuals(fmt: Format) -> Format:
    sides = tuple(side for side in fmt.sides if side.kind != "wr")
    return fmt if sides == fmt.sides else replace(fmt, sides=sides)


def _weights(fmt: Format, norms: F32 | None) -> F32 | None:
    """What squared errors are weighted with where a block of this format makes a choice."""
    if norms is None or fmt.policies.error == "squared":
        return None
    return np.square(norms) if fmt.policies.error == "weighted" else norms


def _with_residuals(
    fmt: Format, bare: QuantizedTensor, w: Any, norms: F32 | None
) -> QuantizedTensor:
    """A tensor of the same format without ``wr``, and its residuals beside it."""
    rows = to_rows(w)
    if not rows.seen.is_finite:  # what the format's policies make of it is not seen from here
        return fmt.quantize(w, weights=norms)
    side: Side = next(side for side in fmt.sides if side.kind == "wr")
    values = rows.values
    worst = residuals(side, values, bare.to_float32(), norms, backend_for(bare.format).blocks)
    streams: dict[str, U8] = dict(bare.streams) | to_streams(side, worst, values.size)
    for stream in streams.values():
        stream.setflags(write=False)
    return replace(bare, format=fmt, streams=MappingProxyType(streams))


def _fits(
    label: str, fmt: Format, name: str, shape: tuple[int, ...], left_out: dict[str, str]
) -> bool:
    """Whether a matrix can be stored in a format; where not, it is noted why."""
    if label in left_out:
        return False
    record = fmt.record
    if record is not None and shape[-1] % record.elements:
        left_out[label] = (
            f"rows of {shape[-1]} elements of {name} do not divide into records of "
            f"{record.elements}"
        )
    return label not in left_out


def _beside(name: str, stored: QuantizedTensor) -> int:
    """No less than what stands in a checkpoint beside a tensor's streams, but for the text."""
    shapes = {stream: octets.shape for stream, octets in stored.streams.items()}
    return entry_bound(name, stored.format, shapes)


@lru_cache(maxsize=512)
def text_octets(text: str) -> int:
    """What a .fmt text and its line in the manifest take: once, however many tensors use it."""
    return text_bound(compiled(text))
