"""The analytic model"s coefficients, as ``python -m fmtc.runtime.rtl.calibrate`` prints them."""

from __future__ import annotations

#: Figure -> block -> number, in units of osu018"s area, seconds and joules.
COEFFICIENTS: dict[str, dict[str, float]] = {
    "area": {
        "decoder": 42.106,
        "multiplier": 195.6,
        "shifter": 44.724,
        "adders": 134.65,
        "shift_sum": 0.0,
        "lane": 0.0,
    },
    "delay": {
        "constant": 1.012e-10,
        "decoder": 1.0228e-10,
        "multiplier": 4.1994e-10,
        "shifter": 2.7894e-10,
        "carry": 1.1734e-10,
    },
    "energy": {
        "decoder": 6.2745e-14,
        "multiplier": 3.1314e-13,
        "shifter": 5.2711e-14,
        "adders": 0.0,
        "shift_sum": 2.3297e-13,
        "lane": 8.0215e-13,
    },
}
