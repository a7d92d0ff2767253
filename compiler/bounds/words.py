"""What a scale's storage does to it: between which ratios the asked and the stored scale lie.

The thresholds of ``view`` are exact, so a stored word s stands for the asked scales of an
interval. Divided by s these intervals overlap, and the union over the words of a *regime* is
all that a bound needs to know of the scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from ..format import Format
from ..kernel import wanted_format
from ..scales import is_fp32_word
from ..view import ScaleView, view_of

#: The regimes of a scale word, in the order in which a datasheet names them.
NORMAL, SUBNORMAL, LEAST = "normal", "subnormal", "least"


@dataclass(frozen=True, slots=True)
class Word:
    """One stored magnitude and the asked scales that it is stored for.

    Attributes:
        value: the stored scale, exact, in units of the second level.
        low, high: the ends of its interval of asked scales. ``high`` is None for the largest
            word, which every larger scale saturates to.
        regime: ``normal``, ``subnormal``, or ``least`` for the smallest word of all, which
            scales of any smaller size are stored as.
        takes_low: whether ``low`` itself is stored as this word, and not as the one below.
    """

    value: Fraction
    low: Fraction
    high: Fraction | None
    regime: str
    takes_low: bool = False


@dataclass(frozen=True, slots=True)
class Ratios:
    """An interval of asked / stored, and the words that reach its ends.

    Attributes:
        low, high: its ends; whether a block reaches them or only comes near them does not
            matter to a supremum.
        low_word, high_word: the words, or None where binary32 itself is stored.
    """

    low: Fraction
    high: Fraction
    low_word: Word | None = None
    high_word: Word | None = None


@lru_cache(maxsize=256)
def words_of(fmt: Format) -> tuple[Word, ...]:
    """The stored words of a table-coded scale, ascending; none where binary32 is stored."""
    word = fmt.scale.word
    if fmt.scale.codes == "wanted":
        return _nearest_words(fmt)
    if is_fp32_word(word):
        return ()
    scale = view_of(wanted_format(fmt)).scale
    return tuple(_words(scale))


def _words(scale: ScaleView) -> list[Word]:
    from ..exact import fp32_from_bits

    values = [Fraction(fp32_from_bits(scale.values_bits[rank])) for rank in scale.ranks[1:]]
    edges = [scale.first_point, *scale.points]
    ties = [scale.first_tie_up, *scale.ties_up]
    found = []
    for index, value in enumerate(values):
        high = edges[index + 1] if index + 1 < len(values) else None
        regime = _regime(scale.smallest_normal, index, value)
        found.append(Word(value, edges[index], high, regime, ties[index]))
    return found


def _nearest_words(fmt: Format) -> tuple[Word, ...]:
    """Words that a binary32 scale is rounded to, ties to even, after the codes were chosen."""
    if is_fp32_word(fmt.scale.word):
        return ()
    number = fmt.scale.word.number
    values = [m for m in number.magnitudes() if m is not None]
    found: list[Word] = []
    for index, value in enumerate(values):
        if value == 0:
            continue
        low = (values[index - 1] + value) / 2 if index else Fraction(0)
        high = (value + values[index + 1]) / 2 if index + 1 < len(values) else None
        regime = _regime(number.smallest_normal, len(found), value)
        found.append(Word(value, low, high, regime, index % 2 == 0))
    return tuple(found)


def _regime(smallest_normal: Fraction, index: int, value: Fraction) -> str:
    if index == 0:
        return LEAST
    return NORMAL if value >= smallest_normal else SUBNORMAL


def ratios_of(fmt: Format, regime: str, step: int = 0) -> tuple[Ratios, ...]:
    """The union of asked / stored over the words of a regime, as disjoint intervals.

    With a ``step`` the word that is stored is so many above the asked one's; blocks that ask
    for less than the least word, and then step, are not spoken of.

    Binary32 scales have the one ratio 1: their rounding is in the slack of every bound. The
    largest word counts up to the ratio that the other words reach; past that it saturates.
    """
    words = words_of(fmt)
    if not words:
        return (Ratios(Fraction(1), Fraction(1)),) if regime == NORMAL else ()
    moved = range(max(1 if step else 0, -step), len(words) - max(0, step))
    pairs = [(words[i], words[i + step]) for i in moved if words[i + step].regime == regime]
    spans = [
        (asked.low / word.value, asked.high / word.value, word)
        for asked, word in pairs
        if asked.high is not None
    ]
    top = max((high for _, high, _ in spans), default=Fraction(0))
    ends = ((a.low / w.value, w) for a, w in pairs if a.high is None)
    spans += [(low, top, word) for low, word in ends if low < top]
    merged: list[Ratios] = []
    for low, high, word in sorted(spans, key=lambda span: (span[0], -span[1])):
        if merged and low <= merged[-1].high:
            last = merged[-1]
            if high > last.high:
                merged[-1] = Ratios(last.low, high, last.low_word, word)
        else:
            merged.append(Ratios(low, high, word, word))
    return tuple(merged)
