"""Every knob of the language: its legal values, its default and its meaning, said once.

The checker, the error hints, ``fmtc show`` and the documentation all read this table.
"""

from __future__ import annotations

from dataclasses import dataclass

from .floats import TOPS
from .hosts import HOSTS


@dataclass(frozen=True, slots=True)
class Knob:
    """One ``key value`` setting.

    ``words`` are the words it takes, ``number`` says whether it takes a number, and
    ``default`` is None for a knob that must be said.
    """

    key: str
    meaning: str
    words: tuple[str, ...] = ()
    number: bool = False
    default: str | None = None

    @property
    def legal(self) -> str:
        """What the knob takes, in the words of a message."""
        choices = [*self.words, *(["a number"] if self.number else [])]
        return choices[0] if len(choices) == 1 else ", ".join(choices[:-1]) + " or " + choices[-1]


def _table(*knobs: Knob) -> dict[str, Knob]:
    return {knob.key: knob for knob in knobs}


#: Settings that stand directly in a format.
FORMAT_KNOBS = _table(
    Knob("block", "elements that share a scale, along the last axis", number=True),
    Knob("host", "the word format that the grid's values are stored in", HOSTS, default="fp32"),
    Knob(
        "tie",
        "the neighbour that a value half-way between two takes",
        ("even", "down", "up", "toward_zero", "away"),
        default="even",
    ),
    Knob(
        "compare",
        "how x and a midpoint are compared: x against scale*midpoint in exact real arithmetic, "
        "or against the midpoint rounded to fp32 the rounded quotient x/scale, or the rounded "
        "product of x and the rounded 1/scale",
        ("exact", "fp32_quotient", "fp32_reciprocal"),
        default="exact",
    ),
    Knob("overflow", "what a value past the grid's end becomes", ("saturate",), default="saturate"),
    Knob(
        "nan",
        "what a NaN input does: refuse the tensor, make its block NaN, or count as zero",
        ("error", "propagate", "zero"),
        default="error",
    ),
    Knob(
        "inf",
        "what an infinite input does: refuse the tensor, or count as the largest fp32 number",
        ("error", "saturate"),
        default="error",
    ),
    Knob(
        "negative_zero",
        "whether encoding keeps the sign of a zero where the grid has a -0",
        ("keep", "drop"),
        default="keep",
    ),
    Knob(
        "pack",
        "which code of a byte comes first: the one in its low bits or in its high bits",
        ("low_first", "high_first"),
        default="low_first",
    ),
    Knob("layout", "how blocks stand in memory", ("planar",), default="planar"),
)

#: Settings of a scale clause.
SCALE_KNOBS = _table(
    Knob(
        "rule",
        "how a block's scale follows from its elements",
        ("absmax", "argmax", "floor_log2"),
        default="absmax",
    ),
    Knob(
        "round",
        "how the real scale becomes a stored one",
        ("even", "up", "down"),
        default="even",
    ),
    Knob("tensor", "a second scale level, one per tensor", ("none", "fp32"), default="none"),
    Knob(
        "shift",
        "a power of two per tensor that moves the scales into the word's range",
        ("none", "auto"),
        number=True,
        default="none",
    ),
    Knob(
        "min",
        "the least scale of a block that is not all zero",
        ("smallest",),
        number=True,
        default="smallest",
    ),
    Knob(
        "zero_block",
        "the scale stored for an all-zero block; 'smallest' is zero where the word has one",
        ("smallest",),
        number=True,
        default="smallest",
    ),
    Knob(
        "container",
        "bits of the stored word; 'fit' is the least of 8, 12, 16 and 32 that holds it",
        ("fit",),
        number=True,
        default="fit",
    ),
)

#: Settings of a float, as an atom or as a scale word.
FLOAT_KNOBS = _table(
    Knob("bias", "the exponent bias", ("standard",), number=True, default="standard"),
    Knob("top", "what the all-ones exponent means", ("standard", *TOPS), default="standard"),
    Knob(
        "subnormals",
        "whether exponent field 0 counts in steps from zero",
        ("standard", "on", "off"),
        default="standard",
    ),
)

#: Settings of an integer atom.
INTEGER_KNOBS = _table(
    Knob(
        "range",
        "symmetric leaves the lowest code out, full is two's complement, unsigned starts at zero",
        ("symmetric", "full", "unsigned"),
        default="symmetric",
    ),
)

#: Where select bits may live.
SELECT_PLACES = ("scale.sign", "scale.meta", "field")

#: Bits that a scale word may take.
CONTAINERS = (8, 12, 16, 32)
