"""What a call costs beside its work: copies, passes over elements, preparation, imports."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import fmtc
import ml_dtypes
import numpy as np
import pytest
import torch
from fmtc import Format
from fmtc.codegen import TARGETS
from fmtc.compiler import reference
from fmtc.compiler.view_arrays import decode_values, scale_ranks, scale_values
from fmtc.runtime.arrays import Rows, to_rows
from fmtc.runtime.quantized import _admit
from representatives import EACH_KIND

#: Elements: many enough that small objects do not count.
COUNT = 1 << 20
LENGTH = 1 << 10

NARROW = {
    "numpy float16": lambda x: x.astype(np.float16),
    "numpy bfloat16": lambda x: x.astype(ml_dtypes.bfloat16),
    "torch float16": lambda x: torch.from_numpy(x).half(),
    "torch bfloat16": lambda x: torch.from_numpy(x).bfloat16(),
}


def gaussian(seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal(COUNT, np.float32)
    return x.reshape(-1, LENGTH)


def format_with(policies: str) -> Format:
    return Format.of(
        fmtc.compile_text(f"format t {{ block 16  grid e2m1  scale e4m3  {policies} }}")
    )


def bytes_at_most(work: Callable[[], object]) -> int:
    """The most memory that NumPy and Python hold at once while they work."""
    work()
    tracemalloc.start()
    try:
        kept = work()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    del kept
    return peak


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_binary32_in_order_is_not_copied(framework: str) -> None:
    x = gaussian()
    rows = to_rows(x if framework == "numpy" else torch.from_numpy(x))
    assert rows.values.ctypes.data == x.ctypes.data
    assert rows.shared
    values, absmax = _admit(format_with(""), rows)
    assert values is rows.values
    assert absmax == np.abs(x).max()
    assert bytes_at_most(lambda: to_rows(x)) < 1 << 14


@pytest.mark.parametrize("kind", NARROW)
def test_narrow_elements_are_widened_once(kind: str) -> None:
    x = NARROW[kind](gaussian())
    rows = to_rows(x)
    assert not rows.shared
    assert bytes_at_most(lambda: to_rows(x)) < 4 * COUNT + (1 << 14)


def test_a_strided_tensor_is_copied_once() -> None:
    x = np.random.default_rng(1).standard_normal((LENGTH, COUNT // LENGTH), np.float32).T
    assert bytes_at_most(lambda: to_rows(x)) < 4 * COUNT + (1 << 14)
    assert not to_rows(x).shared


@pytest.mark.parametrize("kind", NARROW)
def test_what_is_widened_already_is_cleaned_in_place(kind: str) -> None:
    x = gaussian()
    x[3, 5], x[7, 0], x[1, 1] = np.nan, np.inf, -np.inf
    rows = to_rows(NARROW[kind](x))
    values, absmax = _admit(format_with("nan zero  inf saturate"), rows)
    assert values is rows.values
    largest = float(np.finfo(np.float32).max)
    assert (values[3, 5], values[7, 0], values[1, 1]) == (0, largest, -largest)
    assert absmax == largest


def test_the_memory_of_the_caller_is_not_cleaned() -> None:
    x = gaussian()
    x[3, 5], x[7, 0] = np.nan, np.inf
    before = x.tobytes()
    values, _ = _admit(format_with("nan zero  inf saturate"), to_rows(x))
    assert np.isfinite(values).all()
    assert x.tobytes() == before


def test_a_nan_that_is_propagated_changes_nothing() -> None:
    fmt = fmtc.load("nvfp4")
    assert fmt.policies.nan == "propagate"
    x = gaussian()
    x[3, 5] = np.nan
    rows = to_rows(x)
    values, absmax = _admit(fmt, rows)
    assert values is rows.values
    assert absmax == np.nanmax(np.abs(x))


@pytest.mark.parametrize("what", ["x", "weights"])
def test_scans_take_every_layout(what: str) -> None:
    fmt, x = fmtc.load("mxfp4"), gaussian()[:, :96]
    assert not x.flags.c_contiguous
    arguments = {"weights": np.abs(gaussian()[:96, 0])} if what == "weights" else {}
    q = fmt.quantize(x, **arguments)
    assert q.streams["codes"].tobytes() == fmt.quantize(x.copy()).streams["codes"].tobytes()


def test_the_largest_magnitude_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fmt, x = fmtc.load("nvfp4"), gaussian()
    wanted = fmt.quantize(x)

    def again(*_: object) -> float:
        raise AssertionError("the elements are gone through again")

    monkeypatch.setattr(reference, "_absmax", again)
    found = fmt.quantize(x)
    assert found.level == wanted.level == reference.calibrate(fmt, x, float(np.abs(x).max()))


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "po2_nf4", "nf4"])
def test_quantizing_takes_no_memory_but_its_result(name: str) -> None:
    fmt, x = fmtc.load(name), gaussian()
    q = fmt.quantize(x)
    assert bytes_at_most(lambda: fmt.quantize(x)) < q.nbytes + (1 << 16)


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "po2_nf4", "nf4"])
def test_dequantizing_takes_no_memory_but_its_result(name: str) -> None:
    q = fmtc.load(name).quantize(gaussian())
    assert bytes_at_most(q.dequantize) < 4 * COUNT + (1 << 16)


@pytest.mark.parametrize("kind", NARROW)
@pytest.mark.parametrize("name", ["mxfp4", "po2_nf4", "four_six"])
def test_narrow_tensors_are_not_decoded_to_binary32_first(name: str, kind: str) -> None:
    q = fmtc.load(name).quantize(NARROW[kind](gaussian()))
    assert bytes_at_most(q.dequantize) < 3 * COUNT


@pytest.mark.parametrize("name", EACH_KIND)
def test_tables_are_made_once_and_stay_as_they_are(name: str) -> None:
    fmt = fmtc.load(name)
    for table in (scale_values, scale_ranks, decode_values):
        assert table(fmt) is table(fmtc.load(name))
        assert not table(fmt).flags.writeable


def test_a_format_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fmt = fmtc.load("po2_nf4")
    assert hash(fmt) == hash(fmt)

    def again(self: Format) -> dict[str, object]:
        raise AssertionError("the format is hashed again")

    monkeypatch.setattr(Format, "semantics", again)
    x = gaussian()[:2]
    assert fmt.quantize(x).dequantize().shape == x.shape


def test_rows_say_what_they_hold() -> None:
    rows = to_rows(np.array([1.0, np.nan, -3.0]))
    assert isinstance(rows, Rows)
    assert (rows.seen.absmax, rows.seen.has_nan, rows.seen.has_infinity) == (3.0, True, False)
    assert to_rows(np.array([1e300])).seen.has_infinity


BUILD = """
import sys
from fmtc.cli import cli
cli(["build", *sys.argv[1:]], standalone_mode=False)
sys.stderr.write(" ".join(sorted({m.split(".")[0] for m in sys.modules})))
"""


@pytest.mark.parametrize("name", ["mxfp4", "sop_pair", "q4_k", "af4"])
def test_a_build_loads_nothing_heavy(name: str, tmp_path: Path) -> None:
    """af4 has closed forms, which ask for mpmath, but for no more."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD, name, "-o", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.split())
    assert {"fmtc", "numpy", "jinja2"} <= loaded
    barred = {"torch", "triton", "scipy", "sympy", "matplotlib", "ml_dtypes", "hypothesis"}
    assert not loaded & barred
    folders = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert {"c", "vectors", "datasheet"} <= folders <= set(TARGETS)
