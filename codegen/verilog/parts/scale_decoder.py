"""The decoder of a scale word: sign, select bits and metabits, exponent and significand."""

from __future__ import annotations

from dataclasses import dataclass

from ....compiler.view import view_of
from ...design import Side
from ..module import Module
from .words import scale_outputs, scale_word


@dataclass(frozen=True, slots=True)
class ScaleText:
    """Verilog expressions over ``scale_word_i``.

    ``nan`` and ``infinity`` are conditions over the wires ``exponent_field`` and ``mantissa``;
    ``unused`` lists the parts of the word that mean nothing.
    """

    exponent_field: str
    mantissa: str | None
    mantissa_bits: int
    subnormals: bool
    nan: str | None
    infinity: str | None
    sign: str
    select: str
    unused: tuple[str, ...]


def scale_decoder(side: Side) -> Module:
    """Decodes a scale word of any SwExMy with its sign and metabits (SOP, arXiv:2605.14929)."""
    scale = side.fmt.scale
    second_level = scale.tensor != "none" or scale.shift != 0
    return Module(
        owner=side.fmt,
        part="scale_decoder",
        notes=(
            "Decodes a scale word.",
            (
                "scale = (-1)^scale_sign_o * scale_significand_o * "
                f"2^(scale_exponent_o - {side.scale_bias})"
            ),
            *(
                ("The tensor's own level, an fp32 scale or an exponent shift, comes on top of it.",)
                if second_level
                else ()
            ),
        ),
        ports=(scale_word(side), *scale_outputs(side)),
        values={"scale": _text(side), "side": side},
    )


def _text(side: Side) -> ScaleText:
    fmt = side.fmt
    scale, number = view_of(fmt).scale, fmt.scale.word.number
    low = scale.magnitude_lsb
    nan, infinity = _not_finite(number.top, number.mantissa, split=scale.is_fp32)
    used = set(range(low, low + scale.magnitude_bits)) | {*fmt.select.positions}
    if scale.sign_bit is not None:
        used.add(scale.sign_bit)
    bits = ", ".join(f"scale_word_i[{p}]" for p in fmt.select.positions)
    return ScaleText(
        exponent_field=_part(low + number.mantissa, low + scale.magnitude_bits - 1),
        mantissa=_part(low, low + number.mantissa - 1) if number.mantissa else None,
        mantissa_bits=number.mantissa,
        subnormals=number.subnormals,
        nan=nan,
        infinity=infinity,
        sign="1'b0" if scale.sign_bit is None else f"scale_word_i[{scale.sign_bit}]",
        select=bits if len(fmt.select.positions) == 1 else f"{{{bits}}}",
        unused=_runs([p for p in range(scale.container) if p not in used]),
    )


def _not_finite(top: str, mantissa: int, *, split: bool) -> tuple[str | None, str | None]:
    """When a word is NaN, and when infinite (told apart only where ``split``)."""
    if top == "finite":
        return None, None
    if split:
        return "(&exponent_field) & (|mantissa)", "(&exponent_field) & ~(|mantissa)"
    if top == "nan" and mantissa:
        return "(&exponent_field) & (&mantissa)", None
    return "&exponent_field", None


def _part(low: int, high: int) -> str:
    return f"scale_word_i[{high}]" if low == high else f"scale_word_i[{high}:{low}]"


def _runs(positions: list[int]) -> tuple[str, ...]:
    """Neighbouring positions joined into part selects."""
    starts = [p for p in positions if p - 1 not in positions]
    ends = [p for p in positions if p + 1 not in positions]
    return tuple(_part(low, high) for low, high in zip(starts, ends, strict=True))
