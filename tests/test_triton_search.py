"""Kernels that search: several stored scales and both signs, as the pipeline chooses them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from fmtc import compile_text
from fmtc.compiler.engine import ReferenceEngine
from fmtc.compiler.format import Format
from fmtc.compiler.kernel import kernel_format
from fmtc.compiler.pipeline import decode, encode
from fmtc.compiler.reference import TensorLevel, calibrate
from fmtc.compiler.view import view_of
from fmtc.runtime.backend import BackendUnavailable
from fmtc.runtime.choose import backend_for
from numpy.typing import NDArray

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

F32 = NDArray[np.float32]
FLT_MAX = np.finfo(np.float32).max
LOPSIDED = "codebook 2 { -3, -1, 2, 5 }"

#: Every word, rule, compare mode and place of select bits that scales are searched for with.
SEARCHED = {
    "near": "block 16  grid e2m1  scale e4m3 { search 2 }",
    "far": "block 12  grid i = int 4  scale ue4m3 { search 8  shift auto }",
    "level": "block 16  grid e2m1  scale e4m3 { search 1  tensor fp32 }  tie up",
    "powers": "block 32  grid e2m1  scale e8m0 { rule floor_log2  search 1 }  nan propagate",
    "argmax": f"block 8  grid c = {LOPSIDED}  scale s1e5m2 {{ rule argmax  search 2 }}",
    "signs": f"block 16  grid c = {LOPSIDED}  scale s1e5m2 {{ signs both }}",
    "both": f"block 16  grid c = {LOPSIDED}  scale s1e4m3 {{ signs both  search 1 }}  tie down",
    "quotient": f"""block 10  grid c = {LOPSIDED}  scale s1e4m3 {{ signs both  search 2 }}
        compare fp32_quotient""",
    "fp32": f"block 10  grid c = {LOPSIDED}  scale fp32 {{ signs both }}  nan propagate",
    "one_sided": "block 7  grid ue2m2  scale fp32 { signs both }",
    "targets": "block 16  grid e2m1  scale e4m3 { target targets(6, 4)  search 1 }",
    "grids": """block 16  grid e2m1  grid i = int 4  scale s1e5m2 { signs both  search 1 }
        select 1 bit at field { 0: e2m1, 1: i }""",
    "meta": """block 16  grid a = e2m1  grid b = int 4  scale ue5m3 { container 12  search 1 }
        select 1 bit at scale.meta { 0: a, 1: b }""",
    "sign_selects": """block 16  grid a = e2m1  grid b = int 4  scale e4m3 { search 1 }
        select 1 bit at scale.sign { 0: a, 1: b }""",
    "table": "block 8  grid e3m2  scale ue5m3 { bias -10  search 2 }",
}


@cache
def format_of(name: str) -> Format:
    return compile_text(f"format {name} {{ {SEARCHED[name]} }}")


def rows_of(fmt: Format) -> F32:
    """Rows of 2.5 blocks: plain and hostile, with elements on and beside what decides."""
    rng = np.random.default_rng(46)
    length = 2 * fmt.block + fmt.block // 2
    x = rng.standard_normal((80, length)).astype(np.float32)
    few = rng.choice(np.array([-6, -4, -1, -0.5, -0.0, 0.0, 0.5, 1, 3, 4, 6], np.float32), x.shape)
    bits = rng.integers(0, 1 << 32, (40, length), np.uint32).view(np.float32)
    bits = np.where(np.isfinite(bits), bits, np.float32(0))
    tiny, huge = x[:20] * np.float32(1e-39), np.clip(x[:20], -3, 3) * np.float32(1e38)
    zeros = rng.choice(np.array([-0.0, 0.0], np.float32), (3, length))
    rows = [x, few, bits, tiny, huge, zeros]
    if fmt.policies.nan == "propagate":
        broken = x[:20].copy()
        broken[rng.random(broken.shape) < 0.05] = np.nan
        rows.append(broken)
    return np.concatenate(rows)


def levels_of(fmt: Format, x: F32) -> list[TensorLevel]:
    found = [calibrate(fmt, x)]
    if fmt.scale.tensor == "fp32":
        found += [TensorLevel(tensor_scale=float(np.float32(s))) for s in (0.0123, 3e-40, 1e37)]
    return found


@pytest.mark.parametrize("name", SEARCHED)
def test_a_kernel_chooses_as_the_pipeline_does(name: str) -> None:
    fmt = format_of(name)
    assert fmt.is_blockwise
    assert not fmt.is_plain
    backend = backend_for(fmt, "triton")
    reference = ReferenceEngine(kernel_format(fmt))
    x = rows_of(fmt)
    for level in levels_of(fmt, x):
        want = encode(fmt, x, level, reference)
        got = backend.encode(x, level)
        assert got.keys() == want.keys()
        for key, octets in want.items():
            different = np.argwhere(got[key] != octets)
            assert not len(different), f"{key}: {len(different)} bytes differ, {different[0]}"
        with np.errstate(over="ignore", invalid="ignore"):
            exact = decode(fmt, want, x.shape[1], level, reference)
        decoded = backend.decode(want, x.shape[1], level)
        assert np.array_equal(decoded, exact, equal_nan=True)


@pytest.mark.parametrize("name", ["near", "both", "grids", "targets"])
def test_other_choices_than_the_rule_are_made(name: str) -> None:
    """Otherwise the comparison above says little."""
    fmt = format_of(name)
    x = np.random.default_rng(1).standard_normal((100, 5 * fmt.block)).astype(np.float32)
    plain = SEARCHED[name]
    for searched, by_rule in (("search 2", ""), ("search 1", ""), ("signs both", "")):
        plain = plain.replace(searched, by_rule)
    rule = compile_text(f"format {name} {{ {plain} }}")
    assert rule.is_plain
    got = backend_for(fmt, "triton").encode(x, TensorLevel())["scales"]
    want = backend_for(rule, "reference").encode(x, TensorLevel())["scales"]
    assert np.mean(got != want) > 0.05
    assert len(view_of(fmt).trials) > len(view_of(rule).trials)


def test_what_is_done_by_a_kernel_alone_is_not_arranged_on_the_host() -> None:
    fmt = format_of("both")
    backend = backend_for(fmt, "triton")
    x = rows_of(fmt)

    class Nothing:
        """An engine that does nothing."""

    backend.engine = Nothing()  # type: ignore[assignment]
    assert backend.encode(x, TensorLevel()).keys() == {"codes", "scales"}


def test_a_format_that_searches_for_scales_of_one_more_kind_goes_through_the_pipeline() -> None:
    fmt = compile_text("format rows { block 16  grid e2m1  scale e4m3 { search 1  tensor rows } }")
    assert not fmt.is_blockwise
    try:
        backend = backend_for(fmt, "triton")
    except BackendUnavailable as reason:
        pytest.skip(str(reason))
    x = np.random.default_rng(2).standard_normal((3, 40)).astype(np.float32)
    want = encode(fmt, x, TensorLevel(), ReferenceEngine(kernel_format(fmt)))
    got = backend.encode(x, TensorLevel())
    assert all(np.array_equal(got[key], octets) for key, octets in want.items())
