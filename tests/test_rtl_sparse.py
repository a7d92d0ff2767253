"""The side path in RTL: outliers and residuals, streamed behind a tile's results."""

from __future__ import annotations

import re
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from fmtc.codegen.design import Design, design_of, hif8_activation
from fmtc.codegen.vectors.sparse import Entry, SparseCommand, Tile, results_of, sparse_commands
from fmtc.codegen.verilog.bench import vector_bench
from fmtc.codegen.verilog.parts.sparse import kinds_of, sparse, sparse_step, sparse_value
from fmtc.codegen.verilog.parts.sparse_bench import sparse_bench
from fmtc.compiler import pipeline
from fmtc.compiler.block_product import (
    accumulate,
    block_product,
    block_sums,
    block_words,
)
from fmtc.compiler.exact import fp32_bits
from fmtc.compiler.format import Format
from fmtc.compiler.packing import unpack
from fmtc.compiler.reference import calibrate
from fmtc.compiler.sides import from_streams
from fmtc.formats import compile_text, load
from fmtc.runtime.rtl.simulate import run_bench, write_bench
from rtl_tools import need


def beside(name: str, sides: str, base: str = "nf4_dd4_ue4m3", more: str = "") -> Format:
    return compile_text(f'format {name} extends "{base}" {{ {more} {sides} check "" }}')


#: Every float that values are stored in; one kind and two; factors for both, one, none; fp32
#: levels, selects in words and in fields, blocks that are no power of two.
CASES = {
    "both": (load("nf4_dd4_opq_wr"), None),
    "opq_fp32": (beside("a", "side opq { quantile 0.9 value fp32 }"), None),
    "opq_fp16": (beside("b", "side opq { quantile 0.9 value fp16 }"), load("mixfp4")),
    "wr_fp16": (beside("c", "side wr { fraction 0.01 value fp16 }"), load("nvfp4")),
    "wr_bf16": (
        beside("d", "side wr { fraction 0.1 value bf16 }", "mxfp4"),
        load("mxfp8_e5m2"),
    ),
    "two_factors": (
        beside("e", "side opq { quantile 0.9 } side wr { fraction 0.01 value e4m3 }"),
        load("nvfp4"),
    ),
    "fp32_scales": (
        beside("f", "side opq { quantile 0.9 value fp16 } side wr { fraction 0.01 }", "nf4"),
        load("nf4"),
    ),
    "block_12": (beside("g", "side opq { quantile 0.9 }", more="block 12"), None),
    "two_grids": (beside("h", "side opq { quantile 0.9 }"), load("sop_pair")),
    "signed_scales": (beside("i", "side wr { fraction 0.01 }"), load("hif7_s1e5m5")),
    "select_field": (
        beside("j", "side opq { quantile 0.9 }", more=f"block {load('sfp4').block}"),
        load("sfp4"),
    ),
}


def design(name: str) -> Design:
    return design_of(*CASES[name])


# -- the golden rows -----------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_golden_tiles_have_entries_that_count(name: str) -> None:
    made = design(name)
    changed = specials = 0
    for command in sparse_commands(made, 3, 5):
        assert any(not tile.entries for tile in command.tiles)
        for tile in command.tiles:
            results = results_of(made, command, tile)
            for before, after in zip(np.ravel(tile.dense), np.ravel(results), strict=True):
                changed += before != after
                specials += int(after) >> 23 & 0xFF == 0xFF
            untouched = set(range(5)) - {entry.column for entry in tile.entries}
            for row, dense in zip(results, tile.dense, strict=True):
                assert [row[c] for c in untouched] == [dense[c] for c in untouched]
    assert changed >= 40
    assert changed - specials >= 20


@pytest.mark.parametrize(("name", "rows"), [("both", 3), ("two_factors", 2), ("wr_bf16", 2)])
def test_entries_make_the_product_of_whole_tensors(name: str, rows: int) -> None:
    """The dense part with outliers masked, then the list of entries: ``block_product``."""
    made = design(name)
    weights, activations = made.weights.fmt, made.activations.fmt
    length, block = 3 * made.block, made.block
    random = np.random.default_rng(8)
    w = random.standard_t(2, (4, length)).astype(np.float32)
    x = random.standard_normal((rows, length)).astype(np.float32)
    levels = calibrate(weights, w), calibrate(activations, x)
    packed = pipeline.encode(weights, w, levels[0]), pipeline.encode(activations, x, levels[1])
    expected = block_product(
        weights, packed[0], levels[0], activations, packed[1], levels[1], length
    )
    kept = {s.kind: from_streams(s, packed[0], w.size) for s in weights.sides}
    assert sum(len(sparse.index) for sparse in kept.values()) > 2
    left = block_words(weights, packed[0], length, kept.get("opq"))
    right = block_words(activations, packed[1], length)
    y = np.zeros((rows, 4), np.float32)
    exponent = left.unit + right.unit - levels[0].shift - levels[1].shift
    for i, sums in enumerate(block_sums(left, right)):
        scales = right.scales[:, i, None].astype(np.float64) * left.scales[None, :, i]
        y = accumulate(y, sums, np.ones(sums.shape, np.bool_), scales, exponent)
    level = np.float32(levels[1].tensor_scale if activations.scale.tensor == "fp32" else 1)
    if activations.scale.tensor == "fp32":
        y = y * level
    factors = [fp32_bits(float(level * np.float32(kept[s.kind].scale))) for s in weights.sides]
    fields = {
        s.name: unpack(packed[1][s.name], length if s.per == "element" else 3, s)
        for s in activations.streams
    }
    entries = sorted(
        (place // length, kind, place % length, word)
        for kind, side in enumerate(weights.sides)
        for place, word in zip(
            kept[side.kind].index.tolist(), kept[side.kind].words.tolist(), strict=True
        )
    )
    command = SparseCommand(
        codes=tuple(map(tuple, fields["codes"].T.tolist())),
        words=tuple(map(tuple, fields["scales"].T.tolist())),
        selects=((0,) * rows,) * 3,
        offset=-levels[1].shift,
        factors=tuple(factors),
        tiles=(),
    )
    tile = Tile(
        tuple(map(tuple, y.view(np.uint32).tolist())),
        tuple(Entry(column, index, kind, word) for column, kind, index, word in entries),
    )
    assert block == made.activations.block
    found = results_of(made, command, tile)
    assert [list(row) for row in found] == expected.view(np.uint32).tolist()
    assert found != tile.dense


# -- stored values -------------------------------------------------------------------------


def value_of(fmt: Format, kind: int, word: int) -> Fraction | None:
    number = fmt.sides[kind].value.number
    size = number.magnitude(word & ((1 << number.magnitude_bits) - 1))
    return None if size is None else -size if word >> number.magnitude_bits else size


def fp32_value(bits: int) -> Fraction:
    field = bits >> 23 & 0xFF
    significand = bits & 0x7FFFFF | bool(field) << 23
    return (-1) ** (bits >> 31) * significand * Fraction(2) ** (max(field, 1) - 150)


@pytest.mark.parametrize("name", ["both", "two_factors", "opq_fp16", "opq_fp32", "wr_bf16"])
def test_stored_values_times_factors_are_exact(name: str, tmp_path: Path) -> None:
    """Every word of 8 bits, and words at the edges of wider ones; significands are integers."""
    need("iverilog")
    made = design(name)
    step, kinds = sparse_step(made), kinds_of(made)
    module = sparse_value(made)
    names = {port.name for port in module.ports}
    factors = (0x3F800000, 0x00000001, 0x00800000, 0x7F7FFFFF, 0xBEAAAAAB, 0, 0x80000000)
    rows = []
    for kind, described in enumerate(kinds):
        bits = described.bits
        words = {1 << i for i in range(bits)} | {(1 << bits) - (1 << i) for i in range(bits)}
        words |= {(1 << i) - 1 for i in range(bits)} | {0x3C5A & ((1 << bits) - 1)}
        for word in set(range(256)) if bits == 8 else words:
            for factor in factors if described.factored else factors[:1]:
                row = {"entry_value_i": word, "entry_kind_i": kind}
                row |= {f"{other.name}_factor_i": factor for other in kinds}
                value = value_of(made.weights.fmt, kind, word)
                infinite = bits == 32 and word & 0x7FFFFFFF == 0x7F800000
                row |= {
                    "entry_nan_o": int(value is None and not infinite),
                    "entry_infinity_o": int(infinite),
                    "entry_sign_o": word >> (bits - 1) ^ factor >> 31,
                }
                if value is not None:
                    whole = abs(value * fp32_value(factor))
                    field = word >> described.mantissa & ((1 << described.exponent) - 1)
                    exponent = max(field, 1) + step.left.bias - described.bias
                    exponent += max(factor >> 23 & 0xFF, 1) if described.factored else 0
                    significand = whole / Fraction(2) ** (exponent - step.left.bias)
                    assert significand.denominator == 1
                    row |= {
                        "entry_zero_o": int(whole == 0),
                        "entry_exponent_o": exponent,
                        "entry_significand_o": int(significand),
                    }
                rows.append({port: v for port, v in row.items() if port in names})
    bench = vector_bench(module, rows)
    assert bench.vectors >= 40
    write_bench(bench, tmp_path)
    result = run_bench(bench, tmp_path)
    assert result.passed, result.log


# -- the module ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_the_bench_passes(name: str, tmp_path: Path) -> None:
    need("iverilog")
    bench = sparse_bench(design(name))
    write_bench(bench, tmp_path)
    result = run_bench(bench, tmp_path)
    assert result.passed, result.log
    assert result.vectors == bench.vectors == 3 * 2 * 5 * 3


FAULTS = [
    (
        r"entry_ready_o = \(state_q == Entries\) & ~step_q\[0\]",
        "entry_ready_o = state_q == Entries",
    ),
    (r"take_entry & ~entry_none_i\}", "take_entry}"),
    (r"Drain: if \(~\(\|step_q\)\)", "Drain: if (~step_q[0])"),
    (r"step_q\[3\] & columns_2_q", "step_q[2] & columns_2_q"),
    (r"if \(columns_1_q\[column\]\)", "if (columns_0_q[column])"),
    (r"assign result_last_o = row_q\[Rows-1\]", "assign result_last_o = row_q[0]"),
    (r"last_tile \? Idle : Dense", "Idle"),
    (r"entry_index_i\[IndexBits-1:4\]", "entry_index_i[IndexBits-2:3]"),
    (r"take_dense & row_q\[row\]", "take_dense"),
    (r"codes_done_q <= 1'b0;", "codes_done_q <= codes_done_q;"),
    (r"scale_place_q <= \{BlockBits\{1'b0\}\};", "scale_place_q <= scale_place_q;"),
    (r"assign dense_ready_o = state_q == Dense", "assign dense_ready_o = 1'b1"),
]


@pytest.mark.parametrize(("old", "new"), FAULTS)
def test_a_fault_is_found(old: str, new: str, tmp_path: Path) -> None:
    need("iverilog")
    bench = sparse_bench(design("both"))
    write_bench(bench, tmp_path)
    path = tmp_path / "rtl" / "nf4_dd4_opq_wr_sparse.v"
    text, count = re.subn(old, new, path.read_text())
    assert count == 1
    path.write_text(text)
    assert not run_bench(bench, tmp_path).passed


def test_formats_without_sides_have_no_side_path() -> None:
    with pytest.raises(ValueError, match="no values stand beside"):
        sparse(design_of(load("sop_pair"), hif8_activation(16)))


@pytest.mark.parametrize("name", CASES)
def test_modules_and_benches_are_clean_in_two_linters(name: str, tmp_path: Path) -> None:
    need("verilator", "iverilog")
    bench = sparse_bench(design(name))
    write_bench(bench, tmp_path)
    files = [f"rtl/{module.name}.v" for module in bench.module.closure]
    for top, sources in (
        (bench.module.name, files),
        (bench.top, [*files, f"tb/{bench.top}.v"]),
    ):
        language = ["--default-language", "1364-2005", "--timing", "--top-module", top]
        for command in (
            ["verilator", "--lint-only", "-Wall", *language, *sources],
            ["iverilog", "-g2005", "-Wall", "-tnull", "-s", top, *sources],
        ):
            done = subprocess.run(
                command, cwd=tmp_path, capture_output=True, text=True, check=False
            )
            assert (done.returncode, done.stdout + done.stderr) == (0, "")
    lines = [line for file in files for line in (tmp_path / file).read_text().splitlines()]
    assert max(map(len, lines)) <= 100


def test_yosys_makes_gates_of_it(tmp_path: Path) -> None:
    need("yosys")
    bench = sparse_bench(design("both"))
    write_bench(bench, tmp_path)
    files = " ".join(f"rtl/{module.name}.v" for module in bench.module.closure)
    top = bench.module.name
    script = f"read_verilog {files}; chparam -set Rows 1 -set Columns 2 -set IndexBits 6 {top}; "
    script += f"synth -top {top}; check -assert; select -assert-none t:$_DLATCH_*"
    done = subprocess.run(
        ["yosys", "-q", "-p", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
