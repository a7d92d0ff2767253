"""Where the statements about a format hold, held against the encoder."""

from __future__ import annotations

from fractions import Fraction

import fmtc
import numpy as np
import pytest
from fmtc.compiler.bounds.domain import domain_of, domain_sentence
from fmtc.compiler.bounds.words import NORMAL, words_of
from fmtc.compiler.resolve import compile_text
from fmtc.runtime.format import Format


def encoded(name: str, absmax: float) -> tuple[Fraction, Fraction]:
    """The stored scale of a block of one large element, and what that decodes to."""
    fmt = fmtc.load(name)
    x = np.zeros((1, fmt.block), np.float32)
    x[0, 0] = absmax
    packed = fmt.quantize(x, backend="reference")
    value = fmt.scale.word.number.magnitude(int(packed.streams["scales"][0, 0]))
    assert value is not None
    return value, Fraction(float(packed.dequantize(backend="reference")[0, 0]))


@pytest.mark.parametrize("name", ["nvfp4_one_level", "nvfp4_torchao_one_level", "nvfp4_ue5m3"])
def test_blocks_above_the_domain_end_at_its_end_and_lose_the_rest(name: str) -> None:
    found = domain_of(fmtc.load(name))
    assert found is not None
    assert found.most is not None
    for factor in (1.01, 3.0, 1000.0):
        assert encoded(name, float(found.most) * factor)[1] == found.end
    assert encoded(name, float(found.end) / 2)[1] < found.end


def test_scales_are_normal_from_the_domain_on() -> None:
    fmt = fmtc.load("nvfp4_one_level")
    found = domain_of(fmt)
    assert found is not None
    normal = {w.value for w in words_of(fmt) if w.regime == NORMAL}
    above, _ = encoded("nvfp4_one_level", float(found.normal) * 1.001)
    below, _ = encoded("nvfp4_one_level", float(found.normal) * 0.999)
    assert above in normal
    assert below not in normal


def test_powers_of_two_never_saturate_and_binary32_has_no_domain() -> None:
    found = domain_of(fmtc.load("mxfp4"))
    assert found is not None
    assert found.most is None
    assert "no block saturates" in domain_sentence(fmtc.load("mxfp4"))
    assert domain_sentence(fmtc.load("nf4")) == ""
    assert "times the second level" in domain_sentence(fmtc.load("nvfp4"))


def test_sides_that_differ_are_only_said_to_saturate_perhaps() -> None:
    text = "format a { block 16 grid c = codebook 2 { -8, -1, 0, 6 } scale ue4m3 { rule absmax } }"
    fmt = compile_text(text, "a.fmt")
    found = domain_of(fmt)
    assert found is not None
    assert not found.exact
    assert "may saturate" in domain_sentence(fmt)
    x = np.zeros((3, 16), np.float32)
    x[:, 0] = (3000.0, -3000.0, -1e6)
    decoded = Format.of(fmt).quantize(x, backend="reference").dequantize(backend="reference")
    assert np.abs(decoded).max() <= found.end
