"""``error cosine``: of all that is tried, a block takes what points most nearly its way."""

from __future__ import annotations

from fractions import Fraction

import fmtc
import numpy as np
import pytest
from fmtc import compile_text
from fmtc.compiler.bounds.choice.search import is_served
from fmtc.compiler.choices import choices
from fmtc.compiler.general import cosine_gaps
from fmtc.runtime.backend import ReferenceBackend
from fmtc.runtime.format import Format
from fmtc.runtime.gpu.encode import why_not
from fmtc.runtime.grids.metrics import block_cosines
from fmtc.runtime.verify import properties

RNG = np.random.default_rng(58)

PAIR = "block 4  grid a = int 3  grid b = e2m0  select 1 bit at field { 0: a, 1: b }"
FORMATS = {
    "pair": f"{PAIR}  scale e4m3",
    "signs": f"{PAIR}  scale s1e5m5 {{ signs both }}",
    "targets": "block 4  grid e2m1  scale e4m3 { target targets(6, 4) }",
    "searched": "block 5  grid e2m1  scale ue5m3 { search 2 }",
    "rows": "block row  grid e2m1  scale e4m3 { target targets(6, 4)  tensor fp32 }",
    "tiles": "block 4  tile 2  grid e2m1  scale e4m3 { target targets(6, 4) }",
    "minimum": "block 4  grid a = int 2 { range unsigned }  grid b = codebook 2 { 0, 1, 2, 4 }  "
    "scale fp32 { rule range }  zero minimum  select 1 bit at field { 0: a, 1: b }",
}


def made(name: str, error: str = "cosine") -> Format:
    return Format.of(compile_text(f"format {name} {{ {FORMATS[name]}  error {error} }}"))


def decoded(fmt: Format, x: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    q = fmt.quantize(x, backend="reference", weights=weights)
    return q.to_float32(backend="reference")


def some(rows: int = 60, length: int = 20) -> np.ndarray:
    x = RNG.standard_normal((rows, length)).astype(np.float32)
    bits = RNG.integers(0, 1 << 32, x.shape, np.uint32).view(np.float32)
    hostile = np.where(np.isfinite(bits), bits, np.float32(0))
    few = RNG.choice(np.array([-6, -4, -1, -0.0, 0.0, 0.5, 3, 6], np.float32), x.shape)
    return np.concatenate([x, hostile, few, x * np.float32(1e-39), x * np.float32(3e37)])


@pytest.mark.parametrize("name", FORMATS)
def test_it_is_what_exact_rationals_choose(name: str) -> None:
    fmt = made(name)
    proven = properties.PROPERTIES["nearest by exact rationals"]
    assert properties.prove(fmt, ReferenceBackend(fmt), proven, examples=25) > 0


@pytest.mark.parametrize("backend", ["c", "numba"])
@pytest.mark.parametrize("name", ["pair", "signs", "tiles"])
def test_every_back_end_chooses_alike(name: str, backend: str) -> None:
    fmt, x = made(name), some()
    weights = np.abs(RNG.standard_normal(x.shape[1])).astype(np.float32)
    for given in (None, weights):
        wanted = fmt.quantize(x, backend="reference", weights=given).streams
        found = fmt.quantize(x, backend=backend, weights=given).streams
        assert found.keys() == wanted.keys()
        for stream, octets in wanted.items():
            assert np.array_equal(found[stream], octets), stream


@pytest.mark.parametrize("weighted", [False, True])
def test_no_other_trial_has_a_larger_cosine(weighted: bool) -> None:
    x = RNG.standard_normal((300, 8)).astype(np.float32)
    norms = np.linspace(0.1, 3, 8, dtype=np.float32) if weighted else None
    chosen = decoded(made("pair"), x, norms)
    kept = block_cosines(x, chosen, norms, 4)
    for grid in ("int 3", "e2m0"):
        alone = Format.of(compile_text(f"format f {{ block 4  grid g = {grid}  scale e4m3 }}"))
        other = block_cosines(x, decoded(alone, x), norms, 4)
        assert (kept >= other - 1e-12).all()
        assert (kept > other + 1e-6).any()
    squared = decoded(made("pair", "squared"), x)
    assert kept.mean() > block_cosines(x, squared, norms, 4).mean()


def test_direction_counts_and_length_does_not() -> None:
    """4/3 times the block has its direction exactly, which its error does not show."""
    bent = np.array([[1, 1], [2, 2]], np.float32)
    scales = "block 2  grid a = codebook 1 { 1, 4 }  scale fp32 { target targets(3, 4) }"
    longer = Format.of(compile_text(f"format f {{ {scales}  error cosine }}"))
    nearer = Format.of(compile_text(f"format f {{ {scales}  error squared }}"))
    for fmt, factor in ((longer, 4 / 3), (nearer, 1.0)):
        assert np.allclose(decoded(fmt, bent), bent * factor, rtol=1e-6)


def test_gaps_are_those_of_exact_cosines_however_small() -> None:
    from mpmath import mp, mpf, sqrt

    x = RNG.standard_normal((50, 6))
    y = x * 1.25 + RNG.standard_normal((50, 6)) * np.logspace(-9, 0, 50)[:, None]
    sums = [np.square(a).sum(axis=1) for a in (x - y, x, y)]
    found = cosine_gaps(*sums)
    with mp.workdps(50):
        for a, b, gap in zip(x, y, found, strict=True):
            both, one, two = (
                sum((mpf(float(u)) * mpf(float(v)) for u, v in zip(p, q, strict=True)), mpf(0))
                for p, q in ((a, b), (a, a), (b, b))
            )
            exact = 1 - both / sqrt(one * two)
            assert abs(gap - exact) <= 1e-15 + 1e-9 * exact
    none = np.array([0.0, 0.0, 1.0, 1.0])
    other = np.array([0.0, 1.0, 0.0, np.inf])
    assert cosine_gaps(none + other, none, other).tolist() == [0, 1, 1, np.inf]


def test_a_common_factor_of_the_weights_changes_nothing() -> None:
    fmt, x = made("targets"), some()
    weights = np.abs(RNG.standard_normal(x.shape[1])).astype(np.float32)
    one, two = (decoded(fmt, x, w) for w in (weights, weights * 4))
    assert np.array_equal(one, two)


def test_the_word_is_listed_printed_and_corrected() -> None:
    fmt = made("pair")
    assert "error  cosine" in fmt.source or "error cosine" in fmt.source
    assert compile_text(fmt.source).content_hash == fmt.content_hash
    assert fmt.content_hash != made("pair", "squared").content_hash
    assert [c.value for c in choices(fmt) if c.knob == "error"] == ["cosine"]
    with pytest.raises(fmtc.FormatError, match="cosine"):
        compile_text(f"format f {{ {FORMATS['pair']}  error cosin }}")


def test_what_knows_squared_errors_alone_says_so() -> None:
    fmt = made("pair")
    assert not fmt.is_plain
    assert not is_served(fmt)
    assert "cosines" in why_not(fmt)
    assert fmt.exact_bpw == made("pair", "squared").exact_bpw == Fraction(21, 4)
