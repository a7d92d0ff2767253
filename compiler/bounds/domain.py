"""For which blocks the statements hold: where scales are normal, and where they saturate."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from ..exact import FP32_MAX
from ..format import Format
from .coder import coders_of
from .words import NORMAL, SUBNORMAL, ratios_of, words_of


@dataclass(frozen=True, slots=True)
class Domain:
    """Absmaxima of blocks, in units of the second level.

    Attributes:
        normal: from here on a block's scale is normal, whichever way it is encoded.
        most: up to here no scale saturates; None where no binary32 block is larger.
        end: the largest magnitude that is decoded: what an element of a saturated block has
            beyond it is lost.
        exact: whether these are the limits of every block, and not only safe ones: one way to
            encode, and both sides of the grid alike.
    """

    normal: Fraction
    most: Fraction | None
    end: Fraction
    exact: bool


def domain_of(fmt: Format) -> Domain | None:
    """The domain of a format with a word for every block's scale; None for other formats."""
    words = words_of(fmt)
    if not words or fmt.zero is not None or fmt.scale.stored is not None:
        return None
    coders = coders_of(fmt)
    end = max(abs(v) for coder in coders for v in coder.values)
    usable = [word for word in words if word.value * end <= FP32_MAX]
    divisors = [d for coder in coders for d in (coder.positive, coder.negative) if d]
    spans = ratios_of(fmt, NORMAL)
    ratio = spans[-1].high if spans else Fraction(1)
    first = next((w for w in words if w.regime == NORMAL), words[0])
    most = usable[-1].value * ratio * min(divisors)
    alike = all({-v for v in c.values} == set(c.values) for c in coders)
    return Domain(
        first.low * max(divisors),
        most if most < FP32_MAX else None,
        usable[-1].value * end,
        alike and len(set(divisors)) == 1 and len(coders) == 1,
    )


def domain_sentence(fmt: Format) -> str:
    """The same in words; empty where there is nothing to say."""
    found = domain_of(fmt)
    if found is None:
        return ""
    unit = ""
    if fmt.scale.tensor != "none":
        unit = " times the second level"
    elif fmt.scale.shift is None:
        unit = " times 2^-shift"
    name = fmt.scale.word.name
    below = "subnormal" if any(w.regime == SUBNORMAL for w in words_of(fmt)) else "the least"
    text = f"{name} scales are normal for absmaxima from {float(found.normal):.6g}{unit}"
    text += f", {'' if found.exact else 'perhaps '}{below} under that; "
    if found.most is None:
        return text + "no block saturates."
    most, end = float(found.most), float(found.end)
    if not found.exact:
        return text + f"blocks above {most:.6g} may saturate: no element decodes to over {end:.6g}."
    return text + (
        f"blocks above {most:.6g} saturate: elements end at {end:.6g} and lose what is beyond."
    )
