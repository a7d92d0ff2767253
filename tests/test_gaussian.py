"""Mean squared error on Gaussian data against the numbers of the literature.

Sources: Grid Games, arXiv:2605.12327 (pairs of grids and their large-group limit); SOP,
arXiv:2605.14929 (SH4 and the argmax rule); BOF4, arXiv:2505.06653; IF4 and IQ4_NL as their
authors define them. Blocks of 16, N(0, 1), scales that are not rounded beyond binary32.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from math import sinh

import numpy as np
import pytest
from fmtc import compile_text, load
from fmtc.compiler.format import Format, Grid
from fmtc.compiler.packing import unpack
from fmtc.compiler.reference import TensorLevel, decode, encode
from numpy.typing import NDArray

F32 = NDArray[np.float32]

COUNT = 1 << 21
SEED = 20260512
TOLERANCE = 0.01

BOF4S_16 = (
    *(-0.8867418, -0.7102949, -0.5628647, -0.4337303, -0.3165589, -0.2071602, -0.1024672, 0),
    *(0.0964974, 0.1948502, 0.2971005, 0.4057139, 0.5239438, 0.6564776, 0.8107474, 1),
)
BOF4_16 = (
    *(-1, -0.7869594, -0.616777, -0.4718284, -0.3426953, -0.2235638, -0.1103868, 0),
    *(0.0964974, 0.1948502, 0.2971005, 0.4057139, 0.5239438, 0.6564776, 0.8107474, 1),
)
AF4 = (
    *(-1, -0.69441008, -0.51243739, -0.3736951, -0.25607552, -0.14982478, -0.04934812, 0),
    *(0.04273164, 0.12934483, 0.21961274, 0.31675666, 0.42563882, 0.55496234, 0.72424863, 1),
)
IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
#: SOP's atom: sinh(1.50 t) - 0.02 at sixteen uniform t in [-1, 1].
SH4 = tuple(round(sinh(1.5 * (2 * i / 15 - 1)) - 0.02, 7) for i in range(16))


def values_of(grid: Grid) -> tuple[str, ...]:
    return tuple(
        f"{value.numerator}/{value.denominator}" for value in grid.values if value is not None
    )


def codebook(values: Iterable[object]) -> str:
    return "codebook 4 { " + ", ".join(str(value) for value in values) + " }"


def nf4() -> str:
    return codebook(values_of(load("po2_nf4").grids[0]))


def partner() -> str:
    return codebook(values_of(load("po2_nf4").grids[1]))


def single(grid: str, rule: str = "absmax", block: int = 16) -> Format:
    return compile_text(
        f"format one {{ block {block}  grid a = {grid}  scale fp32 {{ rule {rule} }} }}"
    )


def pair(first: str, second: str, block: int = 16, rule: str = "absmax") -> Format:
    place = "scale.sign" if rule == "absmax" else "field"
    return compile_text(
        f"format two {{ block {block}  grid a = {first}  grid b = {second}"
        f"  scale fp32 {{ rule {rule} }}  select 1 bit at {place} {{ 0: a, 1: b }} }}"
    )


@cache
def samples() -> F32:
    x = np.random.default_rng(SEED).standard_normal((COUNT >> 12, 1 << 12), dtype=np.float32)
    x.setflags(write=False)
    return x


def block_errors(fmt: Format) -> NDArray[np.float64]:
    """The squared error of every block, summed in binary64."""
    x = samples()
    level = TensorLevel()
    y = decode(fmt, encode(fmt, x, level), x.shape[1], level)
    squares = np.square(x.astype(np.float64) - y)
    return squares.reshape(-1, fmt.block).sum(axis=1)


def mse(fmt: Format) -> float:
    return float(block_errors(fmt).sum() / COUNT)


@pytest.mark.parametrize(
    ("grid", "rule", "published"),
    [
        pytest.param("e2m1", "absmax", 8.863e-3, id="E2M1"),
        pytest.param("nf4", "absmax", 6.528e-3, id="NF4"),
        pytest.param(codebook(SH4), "absmax", 5.534e-3, id="SH4"),
        pytest.param(codebook(BOF4S_16), "argmax", 5.127e-3, id="BOF4-S argmax"),
        pytest.param(codebook(BOF4_16), "absmax", 5.559e-3, id="BOF4"),
        pytest.param(codebook(AF4), "absmax", 7.005e-3, id="AF4"),
        pytest.param(codebook(IQ4_NL), "absmax", 5.600e-3, id="IQ4_NL"),
    ],
)
def test_one_grid_reaches_the_published_gaussian_error(
    grid: str, rule: str, published: float
) -> None:
    found = mse(single(nf4() if grid == "nf4" else grid, rule))
    assert found == pytest.approx(published, rel=TOLERANCE)


def test_the_nf4_pair_of_the_shipped_format_reaches_the_published_gaussian_error() -> None:
    assert mse(pair(nf4(), partner())) == pytest.approx(4.636e-3, rel=TOLERANCE)


@pytest.mark.parametrize(
    ("first", "second", "published"),
    [
        pytest.param("nf4", codebook(SH4), 4.797e-3, id="NF4|SH4"),
        pytest.param("e2m1", "int4", 5.961e-3, id="IF4"),
    ],
)
def test_other_pairs_reach_the_published_gaussian_error(
    first: str, second: str, published: float
) -> None:
    grids = {"nf4": nf4(), "int4": "int 4"}
    fmt = pair(grids.get(first, first), grids.get(second, second))
    assert mse(fmt) == pytest.approx(published, rel=TOLERANCE)


def test_the_shipped_formats_lose_little_to_their_rounded_scales() -> None:
    x = samples()
    for name, published in {"po2_nf4": 4.636e-3, "nvfp4": 8.863e-3}.items():
        q = load(name).quantize(x, backend="reference")
        error = float(np.square(x.astype(np.float64) - q.to_float32(backend="reference")).mean())
        assert published < error < 1.07 * published, name


def test_a_pair_is_never_worse_than_either_of_its_grids_in_any_block() -> None:
    both = block_errors(pair(nf4(), partner()))
    first, second = block_errors(single(nf4())), block_errors(single(partner()))
    least = np.minimum(first, second)
    # The same sums up to the order of addition.
    assert np.allclose(both, least, rtol=1e-12, atol=0)
    assert (both <= first * (1 + 1e-12)).all()
    assert (both <= second * (1 + 1e-12)).all()
    assert 0.3 < (second < first).mean() < 0.9


def test_the_selected_grid_is_the_one_with_the_smaller_error() -> None:
    fmt = pair(nf4(), partner())
    words = unpack(
        encode(fmt, samples(), TensorLevel())["scales"], samples().shape[1] // 16, fmt.streams[1]
    )
    selected = (words >> np.uint32(31)).reshape(-1).astype(np.bool_)
    first, second = block_errors(single(nf4())), block_errors(single(partner()))
    clear = np.abs(first - second) > 1e-9 * (first + second)
    assert np.array_equal(selected[clear], (second < first)[clear])
    assert clear.mean() > 0.999


def gain(block: int) -> float:
    """What the second grid of the shipped pair takes off the better single one's error."""
    alone = min(mse(single(nf4(), block=block)), mse(single(partner(), block=block)))
    return 1 - mse(pair(nf4(), partner(), block)) / alone


def test_the_gain_of_a_second_grid_vanishes_as_the_group_grows() -> None:
    small, large = gain(16), gain(4096)
    assert small > 0.10
    assert 0 <= large < 0.01
