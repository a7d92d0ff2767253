"""The NumPy reference under second levels that are not a tensor's own, on generated formats."""

from __future__ import annotations

import numpy as np
import pytest
from fmtc import compile_text
from fmtc.compiler.format import Format
from fmtc.compiler.reference import TensorLevel
from fmtc.compiler.scales import MAX_TABLE_BITS
from fmtc.runtime.backend import ReferenceBackend
from fmtc.runtime.verify import checks, generate
from fmtc.runtime.verify.tensors import tensors
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

GENERATED = settings(
    deadline=None,
    database=None,
    derandomize=True,
    report_multiple_bugs=False,
    max_examples=20,
    suppress_health_check=list(HealthCheck),
)


def try_another_level(data: st.DataObject) -> None:
    """Scales that saturate, or fall below the least one."""
    fmt = compile_text(data.draw(generate.formats(("plain", "tried"))))
    x = data.draw(tensors(fmt))
    checks.compare_with_oracle(fmt, ReferenceBackend(fmt), x, other_level(fmt))


def other_level(fmt: Format) -> TensorLevel:
    if fmt.scale.tensor == "fp32":
        return TensorLevel(tensor_scale=float(np.float32(0.0123456789)))
    return TensorLevel(shift=7 if fmt.scale.shift is None else fmt.scale.shift)


@GENERATED
@given(data=st.data())
def test_the_second_level_of_another_tensor_is_followed_exactly(data: st.DataObject) -> None:
    try_another_level(data)


@pytest.mark.slow
@settings(GENERATED, max_examples=1000, derandomize=False)
@given(data=st.data())
def test_thousands_of_formats_follow_the_level_of_another_tensor(data: st.DataObject) -> None:
    try_another_level(data)


@settings(GENERATED, max_examples=15, phases=[Phase.generate])
@given(generate.formats())
def test_every_tie_of_a_generated_format_is_broken_as_it_says(text: str) -> None:
    fmt = compile_text(text)
    assert checks.ties_are_exact(fmt, ReferenceBackend(fmt), 500) > 0


def test_scale_words_up_to_the_table_limit_are_exact() -> None:
    word = f"ue5m{MAX_TABLE_BITS - 5}"
    fmt = compile_text(f"format wide {{ block 4  grid e2m1  scale {word} }}")
    x = np.random.default_rng(0).standard_normal((20, 12), dtype=np.float32)
    assert checks.compare_with_oracle(fmt, ReferenceBackend(fmt), x, TensorLevel()) == x.size
