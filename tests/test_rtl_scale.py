"""The scaled accumulate and the second level in RTL: a simulator against exact numbers."""

from __future__ import annotations

import re
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from fmtc.codegen.vectors.scaled import EDGES, scaled_rows
from fmtc.codegen.verilog.bench import Bench, vector_bench
from fmtc.codegen.verilog.module import Module
from fmtc.codegen.verilog.parts.output_scale import (
    output_scale,
    output_scale_bench,
    output_scale_rows,
)
from fmtc.codegen.verilog.parts.scale_apply import scale_apply, scale_apply_bench
from fmtc.codegen.verilog.parts.scale_pipeline import scale_pipeline, scale_pipeline_bench
from fmtc.codegen.verilog.parts.scale_steps import scale_step
from fmtc.runtime.rtl.simulate import run_bench, write_bench
from rtl_tools import design, need

#: Weights and activations: short sums and 62 bits, significands of 1, 4 to 7 and 24 bits, scales
#: with a sign, with infinities, without zero.
PAIRS = (
    ("sop_pair", None),
    ("mxfp4", None),
    ("mxfp4", "mxfp4"),
    ("nvfp4", "nvfp4"),
    ("nf4_dd4_ue4m3", None),
    ("e4m3_ue4m6", None),
    ("mxfp8_e5m2", "mxfp8_e5m2"),
    ("nf4", None),
    ("hif7_s1e5m5", None),
    ("dynamic8", None),
    ("razer_weights", "razer_activations"),
)
IDS = [f"{weights}-{activations or 'hif8'}" for weights, activations in PAIRS]

NAN = 0x7FC00000


def assert_passes(bench: Bench, directory: Path) -> None:
    write_bench(bench, directory)
    result = run_bench(bench, directory)
    assert result.passed, result.log
    assert result.vectors == bench.vectors


def signed(value: int, bits: int) -> int:
    return (value & ((1 << bits) - 1) ^ (1 << (bits - 1))) - (1 << (bits - 1))


def exact_fp32(bits: int) -> Fraction:
    field = bits >> 23 & 0xFF
    significand = bits & 0x7FFFFF | bool(field) << 23
    return (-1) ** (bits >> 31) * significand * Fraction(2) ** (max(field, 1) - 150)


def is_nearest(bits: int, exact: Fraction) -> bool:
    """Whether no neighbour is nearer, and on a tie the last bit is 0; 2^128 is infinity."""
    size, magnitude = abs(exact), bits & 0x7FFFFFFF
    if bits >> 31 != (exact < 0) or magnitude > 0x7F800000:
        return False
    here = Fraction(2) ** 128 if magnitude == 0x7F800000 else exact_fp32(magnitude)
    error = abs(size - here)
    if magnitude == 0x7F800000 and size >= here:
        error = Fraction(0)
    for other in (magnitude - 1, magnitude + 1):
        if not 0 <= other <= 0x7F800000:
            continue
        there = Fraction(2) ** 128 if other == 0x7F800000 else exact_fp32(other)
        distance = abs(size - there)
        if distance < error or (distance == error and magnitude & 1):
            return False
    return True


# -- the golden rows, by their own fields --------------------------------------------------


@pytest.mark.parametrize("names", PAIRS, ids=IDS)
def test_golden_rows_are_the_nearest_numbers(names: tuple[str, str | None]) -> None:
    """From the ports' values alone: no word, no format, another way to round."""
    made = design(names)
    step = scale_step(made)
    seen = {"nan": 0, "infinite": 0, "zero": 0, "subnormal": 0, "exact": 0, "rounded": 0}
    for row in scaled_rows(made):
        result = row["result_o"]
        infinite = any(row.get(f"{f.prefix}_infinity_i", 0) for f in (step.left, step.right))
        nan = not row["sum_valid_i"] or any(
            row[f"{f.prefix}_nan_i"] for f in (step.left, step.right)
        )
        y = row["accumulator_i"]
        special = y >> 23 & 0xFF == 0xFF
        if nan or (special and y & 0x7FFFFF):
            assert result == NAN
            seen["nan"] += 1
            continue
        if infinite or special:
            assert result == NAN or result & 0x7FFFFFFF == 0x7F800000
            seen["infinite"] += 1
            continue
        term = Fraction(signed(row["sum_i"], step.total.bits))
        for factor in (step.left, step.right):
            term *= row[f"{factor.prefix}_significand_i"] * (-1) ** row[f"{factor.prefix}_sign_i"]
            term *= Fraction(2) ** (row[f"{factor.prefix}_exponent_i"] - factor.bias)
        exact = exact_fp32(y) + term * Fraction(2) ** (step.unit + row["exponent_offset_i"])
        if not exact:
            assert result in (0, 0x80000000)
            seen["zero"] += 1
            continue
        assert is_nearest(result, exact)
        seen["subnormal"] += result >> 23 & 0xFF == 0
        seen["exact" if exact == exact_fp32(result) else "rounded"] += 1
    assert all(count >= 4 for count in seen.values()), seen
    assert seen["rounded"] > 200


@pytest.mark.parametrize("names", PAIRS, ids=IDS)
def test_ports_hold_every_exponent_and_product(names: tuple[str, str | None]) -> None:
    """The widths that the headers derive, against the extremes of the golden rows' fields."""
    made = design(names)
    step = scale_step(made)
    for row in scaled_rows(made, drawn=300):
        fields = sum(row[f"{f.prefix}_exponent_i"] for f in (step.left, step.right))
        exponent = step.constant + fields + row["exponent_offset_i"]
        assert step.exponent.low <= exponent <= step.exponent.high
        product = signed(row["sum_i"], step.total.bits)
        for factor in (step.left, step.right):
            product *= row[f"{factor.prefix}_significand_i"]
        assert abs(product) <= step.largest < 1 << step.product_bits


# -- simulation ----------------------------------------------------------------------------


@pytest.mark.parametrize("names", PAIRS, ids=IDS)
def test_the_accumulate_equals_exact_numbers(names: tuple[str, str | None], tmp_path: Path) -> None:
    need("iverilog")
    made = design(names)
    assert_passes(vector_bench(scale_apply(made), scaled_rows(made, drawn=4000, salt=5)), tmp_path)


@pytest.mark.parametrize("make", [scale_apply_bench, scale_pipeline_bench, output_scale_bench])
@pytest.mark.parametrize("names", [PAIRS[0], PAIRS[7]], ids=[IDS[0], IDS[7]])
def test_the_benches_pass(make, names: tuple[str, str | None], tmp_path: Path) -> None:
    need("iverilog")
    bench = make(design(names))
    assert bench.vectors >= 800
    assert_passes(bench, tmp_path)


#: Patterns, and what is put for them.
FAULTS = {
    "scale_product": [
        (r"\{19'd0, negative\}", "20'd0"),
        (r"= negative \^ weight", "= weight"),
        (r"~sum_valid_i \| ", ""),
        (r"~\(\|sum_i\) \| weight_scale_zero_i", "~(|sum_i)"),
    ],
    "align_add": [
        (r"moved_6\[0\] \| lost", "moved_6[0]"),
        (r"accumulator_field\[0\] \| ~normal", "accumulator_field[0]"),
        (r"~product_zero_i & ~difference", "~difference"),
        (r"\+ \{\d+'d0, turned\}", ""),
        (r"\^ \{\d+\{turned\}\}", ""),
        (r"\{6\{far\}\}", "6'd0"),
        (r"accumulator_i\[31\] : product_negative_i", "accumulator_i[31] : accumulator_i[31]"),
        (r"product_negative_i & accumulator_i\[31\]", "accumulator_i[31]"),
        (r"special & \(\|accumulator_i\[22:0\]\)", "special"),
        (r"\(shift\[5\] & ", "(1'b0 & "),
    ],
    "normalize_round": [
        (r"round \| \(kept\[0\] & ~sticky\)", "round"),
        (r"round & \(kept\[0\] \| sticky\)", "round & sticky"),
        (r"round & \(kept\[0\] \| sticky\)", "round"),
        (r"subnormal \? total_exponent_i\[5:0\] : zeros", "zeros"),
        (r"\(\|rounded\[\d+:31\]\)", "1'b0"),
        (r"\(&rounded\[30:23\]\)", "1'b0"),
        (r"& \{31\{~zero\}\}", ""),
        (r"negative \^ total_flip_i", "negative"),
        (r"zeros_0 = ~\(\|half_1\[1\]\)", "zeros_0 = 1'b0"),
    ],
    "output_scale": [
        (r"moved_0\[0\] & \(moved_0\[1\] \| sticky\)", "moved_0[0]"),
        (r"moved_0\[0\] & \(moved_0\[1\] \| sticky\)", "moved_0[0] & sticky"),
        (r"sticky = \(\|normal_0\[22:0\]\)", "sticky = 1'b0"),
        (r"\{5\{\|below\[8:5\]\}\}", "5'd0"),
        (r"\{9\{~subnormal\}\}", "9'h1ff"),
        (r"value_i\[23\] \| ~value_normal", "value_i[23]"),
        (r"\(value_infinity & scale_zero\)", "1'b0"),
    ],
}


@pytest.mark.parametrize(
    ("part", "old", "new"),
    [(part, old, new) for part, faults in FAULTS.items() for old, new in faults],
)
def test_a_fault_is_found(part: str, old: str, new: str, tmp_path: Path) -> None:
    need("iverilog")
    make = output_scale_bench if part == "output_scale" else scale_apply_bench
    # A design whose scales have signs.
    made = design(("hif7_s1e5m5", None))
    bench = make(made)
    write_bench(bench, tmp_path)
    path = tmp_path / "rtl" / f"{made.name}_{part}.v"
    text, count = re.subn(old, new, path.read_text())
    assert count == 1
    path.write_text(text)
    result = run_bench(bench, tmp_path)
    assert not result.passed
    assert "FAIL" in result.log


def test_second_level_rows_are_numpys_products() -> None:
    rows = list(output_scale_rows(20000, salt=3))
    value, scale, result = (
        np.array([row[name] for row in rows], np.uint32)
        for name in ("value_i", "scale_i", "result_o")
    )
    with np.errstate(all="ignore"):
        product = value.view(np.float32) * scale.view(np.float32)
    bits = np.where(np.isnan(product), np.uint32(NAN), product.view(np.uint32))
    assert (bits == result).all()
    assert len(rows) == 20000 + len(EDGES) ** 2
    assert ((bits & 0x7F800000) == 0).sum() > 1000
    assert ((bits & 0x7FFFFFFF) == 0x7F800000).sum() > 500


def test_the_second_level_equals_numpys_products(tmp_path: Path) -> None:
    need("iverilog")
    made = design(PAIRS[0])
    assert_passes(vector_bench(output_scale(made), output_scale_rows(20000, salt=3)), tmp_path)


# -- text and tools ------------------------------------------------------------------------

MODULES = [
    pytest.param(make, names, id=f"{make.__name__}-{name}")
    for make in (scale_pipeline, scale_apply)
    for names, name in zip(PAIRS, IDS, strict=True)
] + [pytest.param(output_scale, PAIRS[0], id="output_scale")]


def written(module: Module, directory: Path) -> list[str]:
    files = []
    for used in module.closure:
        path = directory / f"{used.name}.v"
        path.write_text(used.text(), encoding="ascii")
        files.append(path.name)
    return files


@pytest.mark.parametrize(("make", "names"), MODULES)
def test_modules_are_clean_in_two_linters(make, names, tmp_path: Path) -> None:
    need("verilator", "iverilog")
    module = make(design(names))
    files = written(module, tmp_path)
    language = ["--default-language", "1364-2005", "--timing", "--top-module", module.name]
    for command in (
        ["verilator", "--lint-only", "-Wall", *language, *files],
        ["iverilog", "-g2005", "-Wall", "-tnull", "-s", module.name, *files],
    ):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
    lines = [line for name in files for line in (tmp_path / name).read_text().splitlines()]
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(("make", "names"), [MODULES[0].values, MODULES[-1].values])
def test_yosys_makes_gates_of_it(make, names, tmp_path: Path) -> None:
    need("yosys")
    module = make(design(names))
    script = f"read_verilog {' '.join(written(module, tmp_path))}; synth -top {module.name}; "
    done = subprocess.run(
        ["yosys", "-q", "-p", f"{script} check -assert; select -assert-none t:$_DLATCH_*"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stdout + done.stderr
