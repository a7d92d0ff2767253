"""The encoder in RTL: a simulator against the reference, linters, gates, what is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fmtc import formats
from fmtc.codegen import NotExpressible
from fmtc.codegen.verilog.bench import vector_bench
from fmtc.codegen.verilog.module import Module
from fmtc.codegen.verilog.parts.encoder import (
    check_encoder,
    encoder,
    encoder_bf16,
    encoder_pipeline,
)
from fmtc.codegen.verilog.parts.encoder_bench import (
    bench_blocks,
    encoder_bench,
    encoder_bf16_bench,
    encoder_pipeline_bench,
    encoder_rows,
    encoder_scale_bench,
)
from fmtc.codegen.verilog.parts.encoder_plan import Codebook, Ladder, encoder_plan
from fmtc.compiler.format import Format
from fmtc.compiler.resolve import compile_text
from fmtc.compiler.view import view_of
from fmtc.runtime.rtl.simulate import run_bench, write_bench
from fmtc.runtime.rtl.tools import run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rtl_tools import need

#: HIF words, small floats, integers and codebooks; scales with and without significand, sign,
#: offset and NaN; one peak and two.
SHIPPED = (
    "hif8_ue4m4",
    "hif7_s1e5m5",
    "mxfp4",
    "mxfp8_e4m3",
    "e4m3_ue4m6",
    "mxint8",
    "nvfp4_one_level",
    "nf4_kbit",
    "sh4",
)

#: What no shipped format has: 1-element and odd blocks, zero blocks with a scale, scales of which
#: subnormal elements are many, midpoints at zero, equal thresholds, no negative numbers, admission
#: of everything, every tie, codes in no order.
OWN = (
    "format one { block 1  grid e3m2  scale ue4m4 { shift auto }  nan zero  inf saturate }",
    "format seven { block 7  grid e3m3  scale ue5m3 { shift 9 }  inf saturate }",
    "format floor { block 5  grid e2m1  scale ue4m4 { shift auto  underflow zero_block } }",
    "format held { block 4  grid e2m1  scale e4m3 { underflow zero_block zero_block 1 min 2^-3 } }",
    "format small { block 8  grid e4m3  scale ue7m3 { bias 120 }  tie away  nan zero }",
    """format smaller { block 8  grid a = codebook 3 {
        -1, -77/256, -3/256, 0, 1/512, 77/256, 197/256, 1 }  scale ue7m3 { bias 120 } }""",
    "format four { block 8  grid a = codebook 2 { -1, -1/4, 1/4, 1 }  scale ue4m4  tie up }",
    """format none { block 6  grid a = codebook 2 { 0, 1/3, 2/3, 1 }  scale e4m3
        nan propagate  inf saturate }""",
    "format unsigned { block 6  grid a = int 4 { range unsigned }  scale ue4m4 { shift auto } }",
    """format powers { block 8  grid e2m1  scale ue4m4 { rule floor_log2 }
        negative_zero drop }""",
    """format full { block 8  grid a = int 5 { range full }  scale s1e5m5 { rule argmax }
        tie down }""",
    """format close { block 4  grid a = codebook 3 {
        -1, -0.99999, 0.5, 0.50001, 0.50002, 0.7, 0.9, 1 }
        scale ue4m6 { shift auto }  tie toward_zero }""",
    "format ternary { block 8  grid a = codebook 2 { -1, 0, 1, 1 }  scale ue3m9 }",
)

EVERY = [pytest.param(partial(formats.load, name), id=name) for name in SHIPPED] + [
    pytest.param(partial(compile_text, text), id=text.split()[1]) for text in OWN
]
BENCHES = (encoder_bench, encoder_scale_bench, encoder_bf16_bench, encoder_pipeline_bench)

#: Gates without a latch, and no loop, undriven or doubly driven net.
SYNTHESIS = "synth -flatten -top {top}; select -assert-none t:*LATCH*; check -assert; stat"


def write_modules(module: Module, directory: Path) -> list[str]:
    """The files of a module and of all that it uses."""
    (directory / "rtl").mkdir(parents=True, exist_ok=True)
    for used in module.closure:
        (directory / f"rtl/{used.name}.v").write_text(used.text(), encoding="ascii")
    return [f"rtl/{used.name}.v" for used in module.closure]


@pytest.mark.parametrize("load", EVERY)
def test_the_benches_equal_the_reference(load, tmp_path):
    need("iverilog")
    fmt = load()
    for make in BENCHES:
        bench = make(fmt)
        write_bench(bench, tmp_path)
        result = run_bench(bench, tmp_path)
        assert result.passed, result.log
        assert result.vectors == bench.vectors > 100


@pytest.mark.parametrize("load", EVERY)
def test_the_modules_are_clean_in_two_linters(load, tmp_path):
    need("verilator", "iverilog")
    fmt = load()
    language = ["-Wall", "--default-language", "1364-2005", "--timing"]
    for make in (encoder, encoder_pipeline, encoder_bf16):
        module = make(fmt)
        sources = write_modules(module, tmp_path)
        for command in (
            ["verilator", "--lint-only", *language, "--top-module", module.name],
            ["iverilog", "-g2005", "-Wall", "-tnull", "-s", module.name],
        ):
            done = run([*command, *sources], tmp_path, 60)
            assert (done.code, done.log) == (0, "")


@pytest.mark.parametrize("name", ["hif8_ue4m4", "hif7_s1e5m5", "nf4_kbit", "mxfp8_e4m3"])
def test_yosys_makes_gates_of_every_module_without_a_latch_or_a_loop(name, tmp_path):
    need("yosys")
    parts = encoder(formats.load(name)).uses
    for part in parts:
        sources = " ".join(write_modules(part, tmp_path))
        script = f"read_verilog {sources}; {SYNTHESIS.format(top=part.name)}"
        done = run(["yosys", "-p", script], tmp_path, 120)
        assert done.code == 0, done.log[-2000:]
        assert "Number of cells" in done.log


def test_yosys_makes_gates_of_the_pipeline(tmp_path):
    need("yosys")
    module = encoder_pipeline(formats.load("nvfp4_one_level"))
    sources = " ".join(write_modules(module, tmp_path))
    script = f"read_verilog {sources}; {SYNTHESIS.format(top=module.name)}"
    done = run(["yosys", "-p", script], tmp_path, 300)
    assert done.code == 0, done.log[-2000:]
    assert "$_DFFE_PP_" in done.log


def test_two_simulators_agree(tmp_path):
    need("verilator", "iverilog")
    bench = encoder_pipeline_bench(formats.load("hif8_ue4m4"))
    write_bench(bench, tmp_path)
    results = [run_bench(bench, tmp_path, simulator) for simulator in ("iverilog", "verilator")]
    assert [result.passed for result in results] == [True, True], results
    assert results[0].vectors == results[1].vectors


@pytest.mark.parametrize("name", SHIPPED)
def test_the_benches_try_every_code_and_every_scale_word(name):
    fmt = formats.load(name)
    view, bits = view_of(fmt), fmt.code_bits
    rows = [row for blocks, shift in bench_blocks(fmt) for row in encoder_rows(fmt, blocks, shift)]
    codes = {
        row["codes_o"] >> (lane * bits) & ((1 << bits) - 1)
        for row in rows
        if not row["invalid_o"]
        for lane in range(fmt.block)
    }
    assert codes == set(view.grids[0].order)
    scale = encoder_scale_bench(fmt)
    words = [line for line in scale.memory().splitlines() if not line.startswith("//")]
    assert len(words) == scale.vectors >= 2 * len(view.scale.ranks) - 32
    assert {row["invalid_o"] for row in rows} == {0, 1}


def test_grids_are_rounded_where_their_steps_double_and_searched_elsewhere():
    forms = {name: encoder_plan(formats.load(name)).lane.grid for name in SHIPPED}
    ladders = {name: (g.mantissa, g.form) for name, g in forms.items() if isinstance(g, Ladder)}
    assert ladders == {
        "hif8_ue4m4": (3, "hif"),
        "hif7_s1e5m5": (3, "hif"),
        "mxfp4": (1, "sign_magnitude"),
        "mxfp8_e4m3": (3, "sign_magnitude"),
        "e4m3_ue4m6": (3, "sign_magnitude"),
        "mxint8": (6, "twos_complement"),
        "nvfp4_one_level": (1, "sign_magnitude"),
    }
    books = {name: (g.digits, g.rest_bits) for name, g in forms.items() if isinstance(g, Codebook)}
    assert books == {"nf4_kbit": (3, 23), "sh4": (3, 23)}


def test_thresholds_are_kept_for_one_power_of_two_and_the_few_below():
    plan = encoder_plan(formats.load("e4m3_ue4m6")).scale
    search = plan.sides[0]
    assert len(view_of(formats.load("e4m3_ue4m6")).scale.ranks) == 1024
    assert (len(search.low), len(search.octave)) == (63, 64)
    assert plan.dropped == 13


#: Module, what stands in it, and the mistake: each is seen by the bench of the whole encoder.
MISTAKES = (
    ("hif8_ue4m4", "encoder_lane", "wire odd = truncated[0]", "wire odd = ~truncated[0]"),
    ("hif8_ue4m4", "encoder_lane", " | (|left)", ""),
    ("hif8_ue4m4", "encoder_lane", "6'd48 : 6'd47", "6'd47 : 6'd47"),
    ("hif8_ue4m4", "encoder_scale", "? last : wanted", "? wanted : wanted"),
    ("hif8_ue4m4", "encoder_absmax", "refused | (special)", "refused | (special & value[0])"),
    ("hif7_s1e5m5", "encoder_absmax", "+: 31] > peak_0", "+: 31] >= peak_0"),
    ("hif7_s1e5m5", "encoder_scale", "peak_negative_i ^ 1'b1", "peak_negative_i ^ 1'b0"),
    ("nf4_hif7", "encoder_lane", "level & last_tie", "level"),
    ("nf4_kbit", "encoder_lane", "left > midpoint", "left < midpoint"),
    ("mxfp8_e4m3", "encoder_lane", "value_i[23] | ~normal_number", "value_i[23]"),
    ("mxfp8_e4m3", "encoder", "nan ? {Lanes{8'd0}} : codes", "codes"),
    ("sh4", "encoder_scale", "positive_index > negative_index", "positive_index < negative_index"),
)


@pytest.mark.parametrize(("name", "part", "right", "wrong"), MISTAKES)
def test_the_bench_sees_a_mistake(name, part, right, wrong, tmp_path):
    need("iverilog")
    bench = encoder_bench(formats.load(name))
    write_bench(bench, tmp_path)
    path = tmp_path / f"rtl/{name}_{part}.v"
    text = path.read_text()
    assert right in text, f"nothing to change in {path.name}"
    path.write_text(text.replace(right, wrong))
    result = run_bench(bench, tmp_path)
    assert not result.passed
    assert f"FAIL {bench.name}" in result.log


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("held_q <= values_q", "held_q <= values"),
        ("else if (enable_i) begin\n      valid_q", "else begin\n      valid_q"),
        ("exponent_offset_q <= exponent_offset_i", "exponent_offset_q <= 8'd0"),
        ("refused_held_q <= refused_q", "refused_held_q <= refused"),
    ],
)
def test_the_pipelines_bench_sees_a_mistake(right, wrong, tmp_path):
    need("iverilog")
    bench = encoder_pipeline_bench(formats.load("hif8_ue4m4"))
    write_bench(bench, tmp_path)
    path = tmp_path / "rtl/hif8_ue4m4_encoder_pipeline.v"
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong))
    assert not run_bench(bench, tmp_path).passed


@pytest.mark.parametrize("name", ["hif8_ue4m4", "hif7_s1e5m5", "nf4_kbit", "mxfp8_e4m3"])
@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_blocks_are_encoded_as_the_reference_does(name, data, tmp_path):
    need("iverilog")
    fmt = formats.load(name)
    size = 4 * fmt.block
    block = st.tuples(
        st.binary(min_size=size, max_size=size), st.integers(-126, 100), st.sampled_from((4, 16, 0))
    )
    rows = []
    for octets, shift, spread in data.draw(st.lists(block, min_size=1, max_size=16)):
        bits = np.frombuffer(octets, np.uint32)
        if spread:  # else any bits
            exponents = 127 - max(-100, shift) + (bits >> 23) % spread
            bits = bits & 0x807FFFFF | (exponents << 23).astype(np.uint32)
        moved = shift if view_of(fmt).scale.shift is None else 0
        rows += encoder_rows(fmt, bits.view(np.float32).reshape(1, -1), moved)
    bench = vector_bench(encoder(fmt), rows, "Blocks that were drawn.")
    write_bench(bench, tmp_path)
    result = run_bench(bench, tmp_path)
    assert result.passed, result.log


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nvfp4", "fp32 second level"),
        ("sop_pair", "trials"),
        ("four_six", "fp32 second level"),
        ("nf4", "fp32 scale words"),
        ("q4_0", "arranged around blocks"),
        ("e4m3_row", "arranged around blocks"),
        ("int4_asym_g128", "arranged around blocks"),
        ("nf4_dd4_opq_wr", "arranged around blocks"),
    ],
)
def test_what_the_encoder_cannot_is_refused_with_the_reason(name, why):
    fmt = formats.load(name)
    for make in (check_encoder, encoder, encoder_pipeline, encoder_bf16, encoder_bench):
        with pytest.raises(NotExpressible, match=f"no encoder RTL for '{name}': .*{why}"):
            make(fmt)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("block 4  grid e2m1  scale e4m3  compare fp32_quotient", "compare fp32_quotient"),
        ("block 4  grid a = codebook 1 { -1, 1 }  scale ue4m4", "codes are signs"),
        ("block 4  grid e2m1  scale e8m0 { shift auto }", "leave binary32"),
        ("block 4  grid e2m1  scale e4m3 { target targets(6, 4) }", "trials"),
    ],
)
def test_what_no_shipped_format_has_is_refused_too(text, why):
    with pytest.raises(NotExpressible, match=why):
        encoder(compile_text(f"format odd {{ {text} }}"))


@pytest.mark.parametrize("grid", ["hif8", "e4m3", "nf"])
def test_the_text_follows_the_conventions_under_a_long_name(grid):
    scale = "scale s1e5m5 { rule argmax  shift auto }"
    if grid == "nf":
        grid, scale = "n = codebook 3 { -1, -0.3, -0.1, 0, 1/3, 0.5, 0.7, 0.9 }", "scale ue4m6"
    fmt: Format = compile_text(f"format {'a' * 60} {{ block 16  grid {grid}  {scale} }}")
    modules = {m.name: m for top in (encoder_bf16(fmt), encoder_pipeline(fmt)) for m in top.closure}
    assert len(modules) == 6
    for module in modules.values():
        text = module.text()
        assert text.isascii()
        assert fmt.content_hash in text
        assert text.endswith("endmodule\n\n`default_nettype wire\n")
        for line in text.splitlines():
            assert len(line) <= 100, line
            assert line == line.rstrip()
