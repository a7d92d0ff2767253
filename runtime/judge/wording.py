"""How figures are called and written, in tables and on pages."""

from __future__ import annotations

from .errors import FIGURES as OF_WEIGHTS
from .intervals import Interval

#: Figures of a judgement: what they are called.
FIGURES = {
    "reference_perplexity": "perplexity of the reference",
    "perplexity": "perplexity",
    "delta_nll": "delta nll, nats a token",
    "kl": "KL, nats a token",
    "ear": "EAR",
    "agreement": "same top token",
    "acos": "ACos",
    "mse": "MSE",
    "nmse": "NMSE",
    "wmse": "wMSE",
}


def over(name: str) -> str:
    """What the interval of a figure is taken over."""
    return "matrices" if name in OF_WEIGHTS else "windows"


def number(value: float) -> str:
    """A figure with five digits that count."""
    return f"{value:.5g}"


def value_and_span(found: Interval) -> tuple[str, str]:
    """A figure and the ends of its interval, to the digits that its width allows."""
    if not found.known:
        return number(found.value), "unknown"
    reach = max(found.high - found.value, found.value - found.low)
    power = _exponent(max(abs(found.value), reach))
    if power < -2:
        digits = max(2, 1 + power - _exponent(reach)) if reach else 4
        value, low, high = (f"{v:.{digits}e}" for v in (found.value, found.low, found.high))
    else:
        digits = max(0, min(9, 1 - _exponent(reach))) if reach else 4
        value, low, high = (f"{v:.{digits}f}" for v in (found.value, found.low, found.high))
    return value, f"{low} .. {high}"


def with_reach(found: Interval, sign: str = "+-") -> str:
    """A figure and how far its interval reaches, to the digits that the reach allows."""
    if not found.known:
        return f"{number(found.value)} {sign}?"
    value, reach = found.value, max(found.high - found.value, found.value - found.low)
    power = _exponent(max(abs(value), reach))
    if power < -2:
        value, reach, suffix = value * 10.0**-power, reach * 10.0**-power, f"e{power}"
    else:
        suffix = ""
    digits = max(0, min(9, 1 - _exponent(reach)))
    said = f"{value:.{digits}f} {sign}{reach:.{digits}f}"
    return f"({said}){suffix}" if suffix else said


def octets(count: float) -> str:
    """A number of bytes in the unit that a reader takes in."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"


def seconds(value: float) -> str:
    """A time."""
    if value < 100:
        return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _exponent(value: float) -> int:
    return int(f"{value:e}".partition("e")[2]) if value > 0 else 0
