"""Products by ``tl.dot_scaled``, for formats that some hardware multiplies as they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from ...compiler.decoding import Values
from ...compiler.exact import fp32_bits
from ...compiler.floats import named_float
from ...compiler.format import Format
from ...compiler.view import NAN_BITS, view_of
from ..render import render
from .parts import facts
from .plan import plan_of

#: Atoms that ``tl.dot_scaled`` takes -> codes in a byte.
NATIVE = {"e2m1": 2, "e4m3": 1, "e5m2": 1}


@dataclass(frozen=True, slots=True)
class Native:
    """What ``tl.dot_scaled`` takes a format's streams for.

    Attributes:
        element: of codes, a name of ``NATIVE``.
        scale: of a block: ``e8m0`` or ``e4m3``.
        block: elements under a scale.
    """

    element: str
    scale: str
    block: int


def native(fmt: Format) -> Native | None:
    """How a format is multiplied as it is stored; None where no hardware does.

    OCP MX: blocks of 32 under E8M0 words. NVFP4: E2M1 in blocks of 16 under E4M3 words. Codes
    fill a byte, or two of them do, the first in the low half.
    """
    if not fmt.is_plain or len(fmt.grids) > 1 or fmt.order != "low_first":
        return None
    values = fmt.grids[0].values
    element = next((name for name in NATIVE if _agrees(values, name)), None)
    scale = view_of(fmt).scale
    if element is None or scale.container != 8 or scale.signed_rule or scale.shift:
        return None
    powers = (*(fp32_bits(2.0 ** (code - 127)) for code in range(255)), NAN_BITS)
    if fmt.block == 32 and scale.values_bits == powers:
        return Native(element, "e8m0", 32)
    number = named_float("e4m3")
    magnitudes = [] if number is None else [number.magnitude(code) for code in range(128)]
    bits = tuple(NAN_BITS if m is None else fp32_bits(float(m)) for m in magnitudes)
    if fmt.block == 16 and element == "e2m1" and scale.values_bits == bits:
        return Native(element, "e4m3", 16)
    return None


def emit_scaled(fmt: Format) -> dict[str, str]:
    """``{"<name>_scaled.py": text}``, or nothing where the format is not native."""
    found = native(fmt)
    if found is None:
        return {}
    values = {
        **facts(fmt, plan_of(view_of(fmt))),
        "element": found.element,
        "packed": NATIVE[found.element],
        "scale_type": found.scale,
        "block": found.block,
        "widens": found.scale == "e8m0",
    }
    return {f"{fmt.name}_scaled.py": render("triton", "scaled.py.j2", **values)}


def _agrees(values: Values, name: str) -> bool:
    """Whether every code means what the hardware takes it for; codes of no number may differ."""
    number = named_float(name)
    if number is None or len(values) != 1 << (1 + number.magnitude_bits):
        return False
    half = len(values) // 2
    for code, value in enumerate(values):
        magnitude = number.magnitude(code % half)
        signed = None if magnitude is None else Fraction(-magnitude if code >= half else magnitude)
        if value is not None and value != signed:
            return False
    return True
