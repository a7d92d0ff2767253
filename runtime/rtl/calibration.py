"""The analytic model's coefficients, as ``python -m fmtc.runtime.rtl.calibrate`` prints them."""

from __future__ import annotations

#: Figure -> block -> number, in units of osu018's area, seconds and joules.
COEFFICIENTS: dict[str, dict[str, float]] = {
    "area": {
        "decoder": 49.243,
        "multiplier": 185.57,
        "shifter": 34.044,
        "adders": 167.68,
        "shift_sum": 0.0,
        "lane": 0.0,
    },
    "delay": {
        "constant": 8.1117e-10,
        "decoder": 1.3483e-10,
        "multiplier": 2.4769e-10,
        "shifter": 1.5402e-10,
        "carry": 1.3007e-10,
    },
    "energy": {
        "decoder": 6.8398e-14,
        "multiplier": 3.1068e-13,
        "shifter": 4.3327e-14,
        "adders": 0.0,
        "shift_sum": 2.8266e-13,
        "lane": 8.3142e-13,
    },
}
