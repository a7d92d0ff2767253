"""The formats inside a format: what a kernel implements, and how scales are wanted.

A *plain* format is all kernel. Any other is arranged, scaled and laid out by ``pipeline``, which
asks a kernel only for elements under given scales.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

from .exact import fp32_bits
from .floats import named_float
from .format import Format, Scale, ScaleWord, Select, Zero
from .scales import is_fp32_word


@lru_cache(maxsize=256)
def dense_format(fmt: Format) -> Format:
    """The format without what stands beside and around its streams: sides and record."""
    return replace(fmt, sides=(), record=None, promotion="")


@lru_cache(maxsize=256)
def kernel_format(fmt: Format) -> Format:
    """The plain format whose kernels do the elements of ``fmt``.

    It is ``fmt`` itself where the kernels can do all. Otherwise its scales are binary32 numbers,
    one for every ``block`` elements of a row, and its select bits a field.
    """
    dense = dense_format(fmt)
    if dense.is_plain:
        return dense
    zero = None if fmt.zero is None else Zero(fmt.zero.kind, fmt.zero.bits, add=fmt.zero.add)
    return replace(
        dense,
        scale=_fp32_scale("absmax"),
        select=_beside(fmt.select),
        policies=replace(fmt.policies, nan="error", error="squared"),
        extent="block",
        tile=1,
        zero=zero,
    )


@lru_cache(maxsize=256)
def wanted_format(fmt: Format) -> Format:
    """The format by which scales are chosen: with fp32 scales where they are stored later."""
    dense, scale = dense_format(fmt), fmt.scale
    if scale.stored is None and scale.codes == "stored":
        return dense
    zero = scale.word.number.magnitude(scale.zero_block) or Fraction(0)
    fp32 = replace(_fp32_scale(scale.rule), zero_block=fp32_bits(float(zero)))
    if is_fp32_word(scale.word):
        fp32 = replace(fp32, minimum=scale.minimum)
    fp32 = replace(fp32, targets=scale.targets, both_signs=scale.both_signs, codes=scale.codes)
    # Select bits of the stored word have no place in the fp32 number before it.
    return replace(dense, scale=fp32, select=_beside(dense.select))


def _beside(select: Select) -> Select:
    """The index of a block's grid as a field, wherever it is stored in the end."""
    return Select(select.bits, "field") if select.bits else Select()


def _fp32_scale(rule: str) -> Scale:
    number = named_float("fp32")
    if number is None:
        raise ValueError("fp32 is a float")
    return Scale(
        word=ScaleWord("fp32", 32, number),
        rule=rule,
        rounding="even",
        tensor="none",
        shift=0,
        minimum=number.magnitude(1) or Fraction(0),
        zero_block=0,
    )
