"""Resets and unknown bits of the clocked modules, and two simulators on the same stimulus."""

import subprocess

import pytest
from fmtc import formats
from fmtc.codegen.design import design_of
from fmtc.codegen.verilog.parts.core import core
from fmtc.codegen.verilog.parts.core_bench import core_bench
from fmtc.codegen.verilog.parts.dot import dot_bench
from fmtc.codegen.verilog.parts.encoder import encoder_pipeline
from fmtc.codegen.verilog.parts.lut_decoder import lut_decoder
from fmtc.codegen.verilog.parts.register import register
from fmtc.codegen.verilog.parts.scale_pipeline import scale_pipeline
from fmtc.runtime.rtl.reset import check_reset, reset_bench
from rtl_tools import need

CLOCKED = {
    "register": (register, {"Width": 9}),
    "lut_decoder": (lut_decoder, {"Reads": 3}),
    "scale_pipeline": (scale_pipeline, {}),
    "encoder_pipeline": (lambda design: encoder_pipeline(design.activations.fmt), {}),
    "core": (core, {"Rows": 2, "Columns": 2, "CountBits": 4}),
}


@pytest.mark.parametrize("part", CLOCKED)
@pytest.mark.parametrize("name", ["sop_pair", "mxfp4", "block_dialect"])
def test_a_reset_in_mid_flight_is_a_cold_one_and_nothing_is_unknown(name, part):
    need("iverilog")
    make, parameters = CLOCKED[part]
    result = check_reset(make(design_of(formats.load(name))), parameters)
    assert result.passed, result.log
    assert result.beats > 0


@pytest.mark.parametrize(
    ("part", "old", "new", "words"),
    [
        ("register", "!rst_ni", "1'b0", "unknown"),
        ("scale_pipeline", "!rst_ni", "1'b0", "unknown"),
        ("scale_pipeline", "valid_q <= {Latency{1'b0}};", "valid_q <= valid_q;", "unknown"),
        ("lut_decoder", "!rst_ni", "1'b0", "unknown"),
        (
            "scale_pipeline",
            "assign valid_o = valid_q[Latency-1];",
            "assign valid_o = valid_q[0];",
            "unknown",
        ),
    ],
    ids=["register", "pipeline", "held", "table", "too early"],
)
def test_a_module_that_is_not_reset_is_noticed(part, old, new, words):
    need("iverilog")
    make, parameters = CLOCKED[part]
    module = make(design_of(formats.load("sop_pair")))
    text = module.text()
    assert old in text
    result = check_reset(module, parameters, {module.name: text.replace(old, new)})
    assert not result.passed
    assert f"FAIL {module.name}" in result.log
    assert words in result.log


def test_a_state_that_outlives_a_reset_is_noticed():
    need("iverilog")
    module = register(design_of(formats.load("mxfp4")))
    text = module.text()
    # A count of all cycles shines through the data: known, but not the same after a reset.
    spy = "  reg [7:0] age = 8'd0;\n  always @(posedge clk_i) age <= age + {7'd0, rst_ni};\n"
    marked = text.replace("\nendmodule", f"\n{spy}\nendmodule").replace(
        "assign out_data_o = ", "assign out_data_o = age ^ "
    )
    assert marked.count("age ^") == 1
    result = check_reset(module, {"Width": 8}, {module.name: marked})
    assert not result.passed
    # Both instances count the same cycles unless one was still in its cold reset.
    assert "differs" in result.log or "unknown" in result.log


def test_the_bench_does_not_know_what_is_not_offered():
    text = reset_bench(register(design_of(formats.load("mxfp4"))), {"Width": 9})
    assert "in_data_i = in_valid_i ? {$random(seed)} : 9'bx;" in text
    assert "(^warm_out_valid_o) === 1'bx" in text
    assert "warm_out_valid_o && (^warm_out_data_o) === 1'bx" in text


#: Where benches compare, and what shows all that they compare there.
COMPARISONS = {
    "if (((got ^ want) & care)": '$display("row %h", got & care);',
    "if (got !== want)": '$display("row %h", got);',
    "if (live && !sound) begin": 'if (live) $display("row %b %h", answers, result);',
}


# -- two simulators -------------------------------------------------------------------------


def dump(bench, directory, simulator):
    """What a bench's module gives out, row by row: only what the bench itself compares."""
    text = bench.text()
    point, shown = next((point, shown) for point, shown in COMPARISONS.items() if point in text)
    assert text.count(point) == 1
    lines = [shown, point]
    (directory / f"{bench.top}.v").write_text(text.replace(point, "\n      ".join(lines)))
    (directory / f"{bench.name}.memh").write_text(bench.memory())
    sources = [f"{bench.top}.v"]
    for module in bench.module.closure:
        (directory / f"{module.name}.v").write_text(module.text())
        sources.append(f"{module.name}.v")
    if simulator == "iverilog":
        build = ["iverilog", "-g2005", "-s", bench.top, "-o", "bench.vvp", *sources]
        program = ["vvp", "-n", "bench.vvp"]
    else:
        build = ["verilator", "--binary", "-Wno-fatal", "--timing", "--top-module", bench.top]
        build += ["-Mdir", "built", "-o", "bench", *sources]
        program = ["built/bench"]
    subprocess.run(build, cwd=directory, check=True, capture_output=True, timeout=300)
    done = subprocess.run(
        program, cwd=directory, check=True, capture_output=True, text=True, timeout=300
    )
    assert f"PASS {bench.name}" in done.stdout
    return [line for line in done.stdout.split("\n") if line.startswith("row ")]


@pytest.mark.slow
@pytest.mark.parametrize("make", [dot_bench, core_bench], ids=["dot", "core"])
def test_two_simulators_give_the_same_outputs_row_by_row(make, tmp_path):
    need("iverilog", "verilator")
    bench = make(design_of(formats.load("sop_pair")))
    dumps = []
    for simulator in ("iverilog", "verilator"):
        directory = tmp_path / simulator
        directory.mkdir()
        dumps.append(dump(bench, directory, simulator))
    assert len(dumps[0]) >= bench.vectors
    assert dumps[0] == dumps[1]
