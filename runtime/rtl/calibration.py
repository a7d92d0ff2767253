"""The analytic model's coefficients, as ``python -m fmtc.runtime.rtl.calibrate`` prints them."""

from __future__ import annotations

#: Figure -> block -> number, in units of osu018's area, seconds and joules.
COEFFICIENTS: dict[str, dict[str, float]] = {
    "area": {"decoder": 1, "multiplier": 1, "shifter": 1, "adders": 1, "carry": 1},
    "delay": {"constant": 1, "multiplier": 1, "shifter": 1, "adders": 1, "carry": 1},
    "energy": {"decoder": 1, "multiplier": 1, "shifter": 1, "adders": 1, "carry": 1},
}
