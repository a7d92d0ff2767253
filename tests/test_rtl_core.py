"""The streaming core in simulators: under pauses, resets and faults, and with a real layer."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from fmtc import formats
from fmtc.codegen.design import design_of
from fmtc.codegen.vectors.core import Command, bench_commands, lanes_of, results_of
from fmtc.codegen.verilog.parts.core import core
from fmtc.codegen.verilog.parts.core_bench import core_bench, harness, table_of
from fmtc.codegen.verilog.parts.tile import tile
from fmtc.compiler.block_product import block_product
from fmtc.compiler.kernel import dense_format
from fmtc.formats import compile_text
from fmtc.runtime.format import Format
from fmtc.runtime.rtl.core import CoreFailed, run_core
from fmtc.runtime.rtl.layer import projection
from fmtc.runtime.rtl.simulate import run_bench, write_bench
from rtl_tools import assert_noticed, need

TESTS = Path(__file__).parent

#: A pair of codebooks in HIF7 words whose outliers stand beside.
MASKED = compile_text('format masked extends "sop_pair" { check ""  side opq { quantile 0.92 } }')


def ran(bench, directory, simulator="iverilog"):
    write_bench(bench, directory)
    return run_bench(bench, directory, simulator)


@pytest.mark.parametrize("variant", ["", "lut"])
@pytest.mark.parametrize("name", ["sop_pair", "four_six", "block_dialect"])
def test_commands_pass_under_pauses_and_resets(name, variant, tmp_path):
    need("iverilog")
    bench = core_bench(design_of(formats.load(name)), variant)
    result = ran(bench, tmp_path)
    assert result.passed, result.log
    assert result.vectors == bench.vectors >= 45


@pytest.mark.parametrize("name", ["e2m3_ue4m4", "mxfp4", "nvfp4", "po2_nf4", "razer_weights"])
def test_each_kind_of_format_has_a_core(name, tmp_path):
    need("iverilog")
    result = ran(core_bench(design_of(formats.load(name))), tmp_path)
    assert result.passed, result.log


@pytest.mark.slow
@pytest.mark.parametrize("name", formats.names())
def test_every_format_with_blocks_in_a_row_has_a_core(name, tmp_path):
    need("iverilog")
    from fmtc.compiler.block_product import NoBlockProduct, check_format

    fmt = formats.load(name)
    try:
        check_format(fmt, with_sides=True)
    except NoBlockProduct as why:
        pytest.skip(str(why))
    result = ran(core_bench(design_of(fmt)), tmp_path)
    assert result.passed, result.log


SHAPES = [(1, 1, 1), (1, 1, 16), (1, 5, 2), (6, 1, 3), (3, 5, 4), (5, 3, 7), (2, 7, 8), (4, 6, 33)]


@pytest.mark.parametrize(("rows", "columns", "block"), SHAPES)
def test_tiles_of_any_shape_and_blocks_of_any_length(rows, columns, block, tmp_path):
    need("iverilog")
    design = design_of(compile_text(f'format f extends "sop_pair" {{ block {block}  check "" }}'))
    commands = bench_commands(design, rows, columns, salt=rows * columns)
    result = ran(harness(design, commands, rows, columns), tmp_path)
    assert result.passed, result.log


@pytest.mark.parametrize(
    ("weights", "activations"),
    [("nvfp4", "nvfp4"), ("sop_pair", "sop_pair"), ("if6", "if6"), ("mxfp4", "mxfp8_e4m3")],
)
def test_activations_may_be_of_any_format_even_the_weights(weights, activations, tmp_path):
    need("iverilog")
    design = design_of(formats.load(weights), formats.load(activations))
    names = [module.name for module in core(design).closure]
    assert len(names) == len(set(names))
    result = ran(harness(design, bench_commands(design, 3, 2), 3, 2), tmp_path)
    assert result.passed, result.log


@pytest.mark.slow
def test_verilator_comes_to_the_same(tmp_path):
    need("verilator")
    result = ran(core_bench(design_of(formats.load("sop_pair")), "lut"), tmp_path, "verilator")
    assert result.passed, result.log


MASKED_FLOAT = compile_text(
    'format m extends "mxfp8_e4m3" { block 2  check ""  side opq { quantile 0.92 } }'
)
PAIR = compile_text('format f extends "sop_pair" { block 2  check "" }')
FAULTS = [
    pytest.param(PAIR, part, old, new, id=f"{part}: {new or 'without ' + old}")
    for part, old, new in (
        ("tile", "assign ready_o = ~last_i | ~busy_q | final_step", "assign ready_o = 1'b1"),
        ("tile", "& (row_valid_q | {Rows{first_i}})", ""),
        ("tile", "(sum_q & {SumBits{~first_i}})", "sum_q"),
        ("tile", "accumulator & {32{~drain_first_q}}", "accumulator"),
        ("tile", "~(finished & last_q[2] & (|row_blocked))", "1'b1"),
        ("tile", "= (Groups > 3) ? Groups : 4;", "= Groups;"),
        ("tile", "% Columns)*12", "/ Columns)*12"),
        ("tile", "drain_row_valid_q[(group*Units + unit) / Columns]", "1'b1"),
        ("tile", "row_q[row] & result_ready_i", "row_q[row]"),
        ("tile", "assign result_last_o = row_q[Rows-1]", "assign result_last_o = row_q[0]"),
        ("tile", ".exponent_offset_i(drain_offset_q)", ".exponent_offset_i(exponent_offset_i)"),
        ("core", "assign weight_scale_next = fire & last", "assign weight_scale_next = fire"),
        ("core", "fire & last & last_block", "fire & last"),
        ("core", "block_q <= last_block ? {CountBits{1'b0}} : next_block", "block_q <= next_block"),
        ("core", "stage_ready = ~stage_valid_q | tile_ready", "stage_ready = 1'b1"),
        ("core", "weight_scale_words[column*12 + 0]", "1'b0"),
        ("core", "      stage_valid_q <= 1'b0;\n", ""),
    )
] + [
    pytest.param(
        MASKED_FLOAT, "tile", "& (column_valid_q | {Columns{first_i}})", "", id="tile: columns"
    ),
    pytest.param(MASKED_FLOAT, "core", "{~weight_mask[column]}", "{1'b1}", id="core: no mask"),
    pytest.param(MASKED_FLOAT, "core", "valids | weight_mask", "valids", id="core: masked NaN"),
]


@pytest.mark.parametrize(("fmt", "part", "old", "new"), FAULTS)
def test_a_fault_in_the_rtl_is_found(fmt, part, old, new, tmp_path):
    need("iverilog")
    design = design_of(fmt)
    commands = [c for salt in range(4) for c in bench_commands(design, 3, 2, salt)]
    bench = harness(design, commands, 3, 2)
    assert_noticed(bench, f"{fmt.name}_{part}", old, new, tmp_path)


@pytest.mark.parametrize("fmt", [formats.load("nvfp4"), MASKED], ids=lambda fmt: fmt.name)
def test_every_shape_is_clean_in_two_linters(fmt, tmp_path):
    need("verilator", "iverilog")
    module = core(design_of(fmt))
    sources = [f"{used.name}.v" for used in module.closure]
    for used in module.closure:
        (tmp_path / f"{used.name}.v").write_text(used.text())
    log = ""
    for (rows, columns), loadable in product([(1, 1), (3, 5), (8, 8)], (0, 1)):
        chosen = {"Rows": rows, "Columns": columns, "Loadable": loadable}
        verilator = [f"-G{key}={value}" for key, value in chosen.items()]
        icarus = [f"-P{module.name}.{key}={value}" for key, value in chosen.items()]
        language = ["--default-language", "1364-2005", "--timing", "--top-module", module.name]
        for command in (
            ["verilator", "--lint-only", "-Wall", *language, *verilator, *sources],
            ["iverilog", "-g2005", "-Wall", "-tnull", "-s", module.name, *icarus, *sources],
        ):
            done = subprocess.run(
                command, cwd=tmp_path, capture_output=True, text=True, check=False
            )
            log += done.stdout + done.stderr
    assert log == ""


def test_yosys_finds_no_loop_and_no_latch(tmp_path):
    need("yosys")
    module = core(design_of(formats.load("sop_pair")))
    for used in module.closure:
        (tmp_path / f"{used.name}.v").write_text(used.text())
    sources = " ".join(f"{used.name}.v" for used in module.closure)
    script = f"read_verilog {sources}; hierarchy -check -top {module.name} -chparam Rows 3 "
    script += "-chparam Columns 5 -chparam Loadable 1; proc; flatten; opt; check -assert; stat"
    done = subprocess.run(
        ["yosys", "-p", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "$dlatch" not in done.stdout
    assert "Warning" not in done.stdout


def tensors(fmt, n, m, length, seed=0):
    fmt = Format.of(formats.load(fmt) if isinstance(fmt, str) else fmt)
    activation = Format.of(design_of(dense_format(fmt)).activations.fmt)
    random = np.random.default_rng(seed)
    weights = random.standard_normal((n, length), np.float32)
    return fmt.quantize(weights), activation.quantize(
        random.standard_normal((m, length), np.float32)
    )


def arbiter(weights, activations):
    return block_product(
        weights.format,
        dict(weights.streams),
        weights.level,
        activations.format,
        dict(activations.streams),
        activations.level,
        weights.length,
    )


def same(found, want):
    return np.array_equal(found.view(np.uint32), want.view(np.uint32))


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (8, 8)])
def test_the_array_takes_a_step_nearly_every_cycle(rows, columns):
    need("iverilog")
    weights, activations = tensors("sop_pair", columns, rows, 576)
    run = run_core(design_of(weights.format), weights, activations, rows, columns)
    assert run.steps == 576
    assert run.utilization > 0.95
    assert same(run.results, arbiter(weights, activations))


@pytest.mark.parametrize(
    ("name", "n", "m", "length"),
    [("sop_pair", 9, 5, 71), ("nvfp4", 4, 4, 40), ("po2_nf4", 7, 3, 64), ("q4_0", 5, 4, 64)],
)
def test_a_product_of_any_size_is_the_arbiters(name, n, m, length):
    need("iverilog")
    weights, activations = tensors(name, n, m, length)
    run = run_core(design_of(weights.format), weights, activations)
    assert run.results.shape == (m, n)
    assert same(run.results, arbiter(weights, activations))


def test_places_of_outliers_count_as_zero():
    need("iverilog")
    weights, activations = tensors(MASKED, 8, 4, 192)
    design = design_of(weights.format)
    run = run_core(design, weights, activations)
    from fmtc.compiler.sides import from_streams

    opq = next(side for side in weights.format.sides if side.kind == "opq")
    outliers = from_streams(opq, dict(weights.streams), 8 * 192)
    assert len(outliers.index)
    left = lanes_of(dense_format(weights.format), dict(weights.streams), 192, outliers)
    right = lanes_of(activations.format, dict(activations.streams), 192)
    shift = -(weights.level.shift + activations.level.shift)
    assert same(run.results, results_of(design, Command(left, right, shift)))


OTHER = """
format f {
  block 16
  host  hif7
  grid  a = codebook 4 { -128, -120, -96, -64, -32, -16, -8, -1, 1, 5, 9, 13, 30, 60, 112, 120 }
  grid  b = codebook 4 { -96, -80, -64, -52, -40, -30, -20, -10, 0, 10, 20, 32, 44, 56, 72, 88 }
  scale s1e5m5 { rule argmax }
  select 1 bit at scale.meta { 0: a, 1: b }
}
"""


def test_a_table_with_another_codebook_is_another_format():
    need("iverilog")
    other, own = Format.of(compile_text(OTHER)), Format.of(formats.load("sop_pair"))
    x = np.random.default_rng(1).standard_normal((4, 64), np.float32)
    weights = other.quantize(x)
    activations = Format.of(design_of(own).activations.fmt).quantize(x)
    loads = table_of(design_of(other).weights)
    run = run_core(design_of(own), replace(weights, format=own), activations, table=loads)
    assert same(run.results, arbiter(weights, activations))
    own_codebook = run_core(design_of(own), replace(weights, format=own), activations)
    assert not same(own_codebook.results, run.results)


def test_tensors_of_another_format_are_refused():
    weights, activations = tensors("sop_pair", 4, 4, 32)
    with pytest.raises(ValueError, match="a tensor of 'sop_pair' in a core of 'nvfp4'"):
        run_core(design_of(formats.load("nvfp4")), weights, activations)
    shorter, _ = tensors("sop_pair", 4, 4, 16)
    with pytest.raises(ValueError, match="rows of 16 weights, and 32 activations"):
        run_core(design_of(weights.format), shorter, activations)


def test_a_core_that_stalls_is_reported(monkeypatch):
    need("iverilog")
    weights, activations = tensors("sop_pair", 4, 4, 32)
    module = tile(design_of(weights.format))
    original = type(module).text

    def silent(self):
        text = original(self)
        return text.replace("result_valid_o = |(row_q & full_q)", "result_valid_o = 1'b0")

    monkeypatch.setattr(type(module), "text", silent)
    with pytest.raises(CoreFailed, match="FAIL sop_pair_core_run"):
        run_core(design_of(weights.format), weights, activations)


@pytest.mark.parametrize(
    ("fmt", "rows", "columns", "loadable", "skipped"),
    [
        (formats.load("nvfp4"), 3, 5, 0, 2),
        (formats.load("four_six"), 2, 2, 1, 1),
        (MASKED, 2, 3, 1, 0),
    ],
)
def test_cocotb_finds_nothing(fmt, rows, columns, loadable, skipped, tmp_path):
    need("iverilog")
    (tmp_path / f"{fmt.name}.fmt").write_text(fmt.source)
    pytest.importorskip("cocotb", reason="cocotb is not installed: pip install cocotb==2.1.0")
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from cocotb_tools.runner import get_runner\n"
        "top, folder, *sizes = sys.argv[1:]\n"
        "runner = get_runner('icarus')\n"
        "parameters = dict(zip(['Rows', 'Columns', 'Loadable'], map(int, sizes)))\n"
        "runner.build(sources=sorted(Path(folder).glob('*.v')), hdl_toplevel=top, always=True,\n"
        "             parameters=parameters, build_args=['-g2005'], build_dir=folder + '/build',\n"
        "             timescale=('1ps', '1ps'))\n"
        "runner.test(hdl_toplevel=top, test_module='cocotb_core', build_dir=folder + '/build',\n"
        "            test_dir=folder, results_xml=folder + '/results.xml')\n"
    )
    module = core(design_of(fmt))
    for used in module.closure:
        (tmp_path / f"{used.name}.v").write_text(used.text())
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            script,
            module.name,
            str(tmp_path),
            *map(str, (rows, columns, loadable)),
        ],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]),
            "FMTC_FORMAT": str(tmp_path / f"{fmt.name}.fmt"),
            "FMTC_ROWS": str(rows),
            "FMTC_COLUMNS": str(columns),
            "FMTC_LOADABLE": str(loadable),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    tally = re.search(r"TESTS=(\d+) PASS=(\d+) FAIL=(\d+) SKIP=(\d+)", done.stdout)
    assert tally is not None, done.stdout[-3000:] + done.stderr[-3000:]
    assert tally.groups() == ("7", str(7 - skipped), "0", str(skipped)), done.stdout


@cache
def demo_model():
    from fmtc.runtime.models import DemoModelMissingError, find_demo_model, load_gguf_model

    for package in ("torch", "transformers", "gguf"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    try:
        return load_gguf_model(find_demo_model())
    except DemoModelMissingError as why:
        pytest.skip(str(why))


LAYER = "model.layers.10.self_attn.k_proj"


def layer_through_core(name, weight, inputs, rows, columns, simulator):
    fmt = Format.of(formats.load(name))
    activation = Format.of(design_of(fmt).activations.fmt)
    weights, activations = fmt.quantize(weight), activation.quantize(inputs)
    run = run_core(design_of(fmt), weights, activations, rows, columns, simulator=simulator)
    print(
        f"{name}: {list(inputs.shape)} x {list(weight.shape)} through {rows} x {columns}: "
        f"{run.cycles} cycles, ideal {run.steps}, {run.utilization:.2%}"
    )
    assert same(run.results, arbiter(weights, activations))
    # It is the layer, within what formats of four and eight bits lose.
    true = inputs @ weight.T
    assert np.linalg.norm(run.results - true) < 0.2 * np.linalg.norm(true)
    return run


@pytest.mark.parametrize("name", ["sop_pair", "nvfp4"])
def test_a_slice_of_a_real_layer_is_bit_exact(name):
    """Eight tokens and 16 of 192 rows of the key projection of SmolLM2's layer 10."""
    need("iverilog")
    from fmtc.runtime.models import evaluation_text

    loaded = demo_model()
    weight, inputs = projection(loaded.model, loaded.encode(evaluation_text())[:8], LAYER)
    assert weight.shape == (192, 576)
    assert inputs.shape == (8, 576)
    run = layer_through_core(name, weight[:16], inputs, 4, 4, "iverilog")
    assert run.steps == 2 * 4 * 576
    assert run.utilization > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sop_pair", "nvfp4"])
def test_a_real_layer_is_bit_exact(name):
    """64 tokens and the whole key projection of layer 10, rotated as in the demo."""
    need("verilator")
    from fmtc.runtime.models import evaluation_text, massive_channels, rotate

    loaded = demo_model()
    tokens = loaded.encode(evaluation_text())[:512]
    rotated = rotate(loaded.model, keep=massive_channels(loaded.model, tokens))
    weight, inputs = projection(rotated, tokens[:64], LAYER)
    run = layer_through_core(name, weight, inputs, 8, 8, "verilator")
    assert run.steps == 8 * 24 * 576
    assert run.utilization > 0.99
