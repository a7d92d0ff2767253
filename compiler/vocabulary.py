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

    ``words`` are the words it takes, ``number`` says whether it takes a number, ``calls`` are
    the calls it takes (``targets(6, 4)``), ``text`` whether it takes a string, and ``default`` is
    None for a knob that must be said.
    """

    key: str
    meaning: str
    words: tuple[str, ...] = ()
    number: bool = False
    default: str | None = None
    calls: tuple[str, ...] = ()
    text: bool = False

    @property
    def legal(self) -> str:
        """What the knob takes, in the words of a message."""
        choices = [*self.words, *(["a number"] if self.number else [])]
        choices += [f"{name}(...)" for name in self.calls]
        choices += ["a string in double quotes"] if self.text else []
        return choices[0] if len(choices) == 1 else ", ".join(choices[:-1]) + " or " + choices[-1]


def _table(*knobs: Knob) -> dict[str, Knob]:
    return {knob.key: knob for knob in knobs}


#: Settings that stand directly in a format.
FORMAT_KNOBS = _table(
    Knob(
        "block",
        "elements that share a scale, along the last axis; a whole row, or the whole tensor",
        ("row", "tensor"),
        number=True,
    ),
    Knob(
        "tile", "rows of a two-dimensional block of tile x block elements", number=True, default="1"
    ),
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
    Knob(
        "offset",
        "added in fp32 to the rounded quotient, which is then truncated instead of rounded",
        ("none",),
        number=True,
        default="none",
    ),
    Knob(
        "error",
        "what a choice between grids or scales makes least: squared errors, the same weighted "
        "element by element, or what the weighted cosine lacks to 1",
        ("squared", "weighted", "cosine"),
        default="squared",
    ),
    Knob("use", "when to use the format, in a line", text=True),
    Knob("check", "a published figure that the format is checked against", text=True),
    Knob(
        "promote",
        "SOP's promotion plan, for a whole model: knap(0.10) adds 0.10 bits per weight",
        ("none",),
        default="none",
        calls=("knap",),
        text=True,
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
)

#: Settings of a scale clause.
SCALE_KNOBS = _table(
    Knob(
        "rule",
        "how a block's scale follows from its elements",
        ("absmax", "argmax", "range", "floor_log2", "ceil_log2", "even_log2", "round_log2"),
        default="absmax",
    ),
    Knob(
        "target",
        "the value that the block's largest element is scaled to; of several the least error wins",
        ("ends",),
        number=True,
        default="ends",
        calls=("targets",),
    ),
    Knob(
        "search",
        "how many stored scales above and below are tried as well, for the least error",
        number=True,
        default="0",
    ),
    Knob(
        "signs",
        "whether a signed scale is tried with either sign",
        ("rule", "both"),
        default="rule",
    ),
    Knob(
        "codes",
        "whether elements are rounded under the stored scale or the fp32 scale before that",
        ("stored", "wanted"),
        default="stored",
    ),
    Knob(
        "round",
        "how the real scale becomes a stored one",
        ("even", "up", "down"),
        default="even",
    ),
    Knob(
        "tensor",
        "a second scale level in fp32: one per tensor, or one per row",
        ("none", "fp32", "rows"),
        default="none",
    ),
    Knob(
        "aim",
        "the stored scale that the largest block gets under a second level",
        ("largest",),
        number=True,
        default="largest",
    ),
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
        "underflow",
        "what a block gets whose scale is below the least one: 'minimum', or, where it rounds to "
        "zero, the scale of an all-zero block",
        ("minimum", "zero_block"),
        default="minimum",
    ),
    Knob(
        "container",
        "bits of the stored word; 'fit' is the least of 8, 12, 16 and 32 that holds it",
        ("fit",),
        number=True,
        default="fit",
    ),
)

#: Settings of a scale or a minimum whose fp32 values are stored in a format of their own.
STORED_KNOBS = _table(
    Knob(
        "over",
        "what 'block' counts along: the scales of a row, or of the tensor",
        ("row", "tensor"),
        default="row",
    ),
    Knob(
        "center", "whether the tensor's mean is subtracted first", ("none", "mean"), default="none"
    ),
)

#: What a zero clause can be.
ZERO_KINDS = ("point", "minimum")

#: Settings of ``zero point``.
POINT_KNOBS = _table(
    Knob(
        "bits",
        "bits of the stored zero point; 'code' is as many as a code has",
        ("code",),
        number=True,
        default="code",
    ),
    Knob(
        "add",
        "'before' adds the zero point to the quotient and rounds the sum (compressed-tensors); "
        "'after' rounds the quotient to an integer, ties to even, and adds the zero point "
        "(GPTQ, AWQ, torchao)",
        ("before", "after"),
        default="before",
    ),
)

#: Settings of ``zero minimum``.
MINIMUM_KNOBS = _table(
    Knob(
        "word", "the float that the minimum is stored in", ("fp32", "fp16", "bf16"), default="fp32"
    ),
    Knob(
        "sign",
        "whether the minimum is stored as it is, or negated and never negative",
        ("kept", "negated"),
        default="kept",
    ),
)

#: Settings of ``side opq`` and ``side wr``.
OPQ_KNOBS = _table(
    Knob(
        "quantile",
        "the share of Gaussian blocks without an outlier: (2 Phi(m) - 1)^block = quantile "
        "gives the threshold m, in standard deviations of the block",
        number=True,
        default="0.92",
    ),
    Knob("threshold", "the threshold m itself", ("quantile",), number=True, default="quantile"),
    Knob("value", "the float that outliers are kept in", ("bf16", "fp16", "fp32"), default="bf16"),
)
WR_KNOBS = _table(
    Knob("fraction", "the share of elements that get a residual", number=True, default="0.001"),
    Knob(
        "value",
        "the float that residuals are kept in",
        ("e3m4", "e4m3", "bf16", "fp16"),
        default="e3m4",
    ),
)

#: Settings of a field of a record.
RECORD_KNOBS = _table(
    Knob("bits", "how many bits of every item", ("all",), number=True, default="all"),
    Knob("from", "the lowest of these bits", number=True, default="0"),
    Knob(
        "order",
        "how items stand in bytes: from the low bits, from the high bits, in split halves, or as "
        "llama.cpp's K-quants pack 6-bit scales and minima",
        ("low_first", "high_first", "halves", "k_quants"),
        default="low_first",
    ),
    Knob("run", "items of a split", ("all",), number=True, default="all"),
)

#: Settings of a grid that transforms another: ``grid b = a { times 2 }``.
TRANSFORM_KNOBS = _table(
    Knob("times", "every value times this", number=True, default="1"),
    Knob("plus", "then plus this", number=True, default="0"),
    Knob(
        "order",
        "'negated' negates every value, 'mirrored' reverses the codes as well",
        ("kept", "negated", "mirrored"),
        default="kept",
    ),
    Knob(
        "replace",
        "a code gets another value: at(8, 5), or at(8, 5, 9, -5)",
        ("none",),
        default="none",
        calls=("at",),
    ),
    Knob(
        "snap",
        "values go to the nearest number of this host, the lower on a tie",
        ("none", "hif7", "hif8", "e2m3", "e3m2", "e4m3", "e5m2", "bf16", "fp16"),
        default="none",
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
        "symmetric leaves the lowest code out, full is two's complement, unsigned starts at zero, "
        "offset counts up from the lowest value",
        ("symmetric", "full", "unsigned", "offset"),
        default="symmetric",
    ),
)

#: Where select bits may live.
SELECT_PLACES = ("scale.sign", "scale.meta", "field")

#: Bits that a scale word may take.
CONTAINERS = (*range(1, 17), 32)
#: The ones that 'container fit' chooses from: the least that holds the word.
FIT_CONTAINERS = (8, 12, 16, 32)
