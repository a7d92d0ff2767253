"""Synthesis to cells: the netlist computes what the format means, its area is its cells'.

The arbiters are the golden cases of the dot product (exact rationals) and the words of every code.
"""

from __future__ import annotations

from pathlib import Path

import cells
import numpy as np
import pytest
from fmtc.codegen.design import Design
from fmtc.codegen.vectors.dot import dot_cases, exact_sum
from fmtc.codegen.vectors.words import element_words
from fmtc.codegen.verilog.parts.dot import dot
from fmtc.codegen.verilog.parts.element_decoder import element_decoder
from fmtc.compiler.exact import fp32_bits
from fmtc.formats import load
from fmtc.runtime.backend import BackendUnavailable
from fmtc.runtime.rtl import activity, bf16, fpga, hosts, synthesis, tools
from fmtc.runtime.rtl.liberty import Library, load_library
from fmtc.runtime.rtl.measure import Bench, block_design, decoders_of, lane_design, sources_of
from fmtc.runtime.rtl.netlist import Simulation
from fmtc.runtime.rtl.synthesis import EFFORTS, Mapped, needed_sources, synthesize


@pytest.fixture(scope="module")
def library() -> Library:
    try:
        tools.require("yosys")
        return load_library("osu018")
    except BackendUnavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMTC_CACHE", str(tmp_path / "cache"))


def mapped_dot(design: Design, library: Library, effort: str, *, apart: bool = False) -> Mapped:
    module = dot(design)
    alone = decoders_of(module) if apart else ()
    return synthesize(sources_of(module), module.name, library, effort, apart=alone)


def module(body: str, ports: str = "input wire a_i, input wire b_i, output wire y_o") -> str:
    return f"module top ({ports});\n{body}\nendmodule\n"


# -- cells ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("assign y_o = ~(a_i & b_i);", {"NAND2X1": 1}),
        ("assign y_o = a_i ^ b_i;", {"XOR2X1": 1}),
        ("assign y_o = ~(a_i | b_i);", {"NOR2X1": 1}),
    ],
)
def test_a_gate_is_a_cell_and_its_area_the_cells(
    library: Library, body: str, expected: dict[str, int]
) -> None:
    found = synthesize({"top.v": module(body)}, "top", library)
    gates = {cell: n for cell, n in found.netlist.cells.items() if not cell.startswith("BUF")}
    assert gates == expected
    areas = [library.cells[cell].area * n for cell, n in found.netlist.cells.items()]
    assert found.area == sum(areas)


@pytest.mark.usefixtures("own_cache")
def test_constants_and_wires_are_no_cells(library: Library) -> None:
    ports = "input wire a_i, output wire [2:0] y_o"
    found = synthesize({"top.v": module("assign y_o = {a_i, 2'b10};", ports)}, "top", library)
    outputs = Simulation(found.netlist, library).run({"a_i": np.array([[0], [1]], np.uint8)})
    assert outputs["y_o"].tolist() == [[0, 1, 0], [0, 1, 1]]


@pytest.mark.usefixtures("own_cache")
def test_a_library_of_the_user_serves(library: Library, tmp_path: Path) -> None:
    file = tmp_path / "mine.lib"
    text = library.path.read_text()
    file.write_text(text.replace("cell (NAND2X1) {\narea : 24;", "cell (NAND2X1) {\narea : 25;"))
    own = load_library(str(file))
    found = synthesize({"top.v": module("assign y_o = ~(a_i & b_i);")}, "top", own)
    assert found.netlist.cells["NAND2X1"] == 1
    assert found.area == found.netlist.area(library) + 1


@pytest.mark.usefixtures("own_cache")
def test_a_library_that_abc_cannot_use_is_a_clear_error(library: Library, tmp_path: Path) -> None:
    own = load_library(str(cells.write(tmp_path)))
    with pytest.raises(BackendUnavailable, match="yosys cannot map top: ERROR"):
        synthesize({"top.v": module("assign y_o = ~(a_i & b_i);")}, "top", own, "small")


@pytest.mark.usefixtures("own_cache")
def test_verilog_that_cannot_be_read_is_said_with_the_tools_words(library: Library) -> None:
    with pytest.raises(BackendUnavailable, match=r"yosys cannot map top: .*syntax error"):
        synthesize({"top.v": module("assign y_o = ;")}, "top", library)


@pytest.mark.usefixtures("own_cache")
def test_a_wire_without_a_driver_is_refused(library: Library) -> None:
    with pytest.raises(BackendUnavailable, match="yosys cannot map top: ERROR: Found 1 problem"):
        synthesize({"top.v": module("wire z; assign y_o = a_i & z;")}, "top", library)


@pytest.mark.usefixtures("own_cache")
def test_a_design_is_mapped_once(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {"top.v": module("assign y_o = a_i & b_i;")}
    first = synthesize(sources, "top", library)

    def refuse(*_: object) -> None:
        raise AssertionError("mapped again")

    monkeypatch.setattr(synthesis, "_map", refuse)
    assert synthesize(sources, "top", library) == first
    commented = {"other.v": "// another day\n" + sources["top.v"] + "/* end */\n"}
    assert synthesize(commented, "top", library) == first
    with pytest.raises(AssertionError, match="mapped again"):
        synthesize(sources, "top", library, "fast")
    with pytest.raises(AssertionError, match="mapped again"):
        synthesize({"top.v": module("assign y_o = a_i | b_i;")}, "top", library)


def test_only_what_a_module_is_made_of_is_read() -> None:
    sources = {
        "a.v": "module a; b u_b (); endmodule // c stands in a comment",
        "b.v": "module b; endmodule",
        "c.v": "module c; endmodule",
    }
    assert sorted(needed_sources(sources, "a")) == ["a.v", "b.v"]


def test_a_missing_tool_is_named_with_its_package(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools.shutil, "which", lambda _: None)
    with pytest.raises(BackendUnavailable, match=r"apt-get install .* yosys"):
        synthesize({"top.v": module("")}, "top", library)
    with pytest.raises(BackendUnavailable, match=r"apt-get install .* yosys"):
        fpga.place_and_route({"top.v": module("")}, "top")


# -- formats -------------------------------------------------------------------------------


def test_a_mapped_decoder_gives_every_codes_word(library: Library) -> None:
    design = lane_design(load("sop_pair"))
    side, decoder = design.weights, element_decoder(design.weights)
    found = synthesize(sources_of(decoder), decoder.name, library)
    index = np.arange(1 << side.select_bits + side.code_bits)
    outputs = Simulation(found.netlist, library).run(
        {
            "code_i": activity.port_bits(index, side.code_bits),
            "select_i": activity.port_bits(index >> side.code_bits, side.select_bits),
        }
    )
    words = [word.fields(side) for word in element_words(side.fmt)]
    for name, _ in side.element_fields:
        values = activity.port_values(outputs[f"{name}_o"], signed=name == "element_coefficient")
        assert values.tolist() == [word[name] for word in words], name


@pytest.mark.parametrize(
    ("name", "effort", "apart"),
    [
        ("nvfp4", "relaxed", False),
        ("nvfp4", "small", False),
        ("nvfp4", "fast", False),
        ("sop_pair", "small", False),
        ("nvfp4", "small", True),
    ],
)
def test_a_mapped_dot_product_gives_the_golden_sums(
    library: Library, name: str, effort: str, apart: bool
) -> None:
    design = block_design(load(name))
    assert design is not None
    found = mapped_dot(design, library, effort, apart=apart)
    cases = dot_cases(design)
    codes = np.array([case.codes for case in cases])
    words = np.array([case.activations for case in cases])
    given = activity.words_as_ports(
        design,
        codes,
        np.array([case.word for case in cases]),
        np.array([case.select_field for case in cases]),
        words[:, :, 0],
        words[:, :, 1],
    )
    outputs = Simulation(found.netlist, library).run(activity.selected(given, found.netlist.inputs))
    sums = activity.port_values(outputs["sum_o"], signed=True)
    golden = [exact_sum(design, case) for case in cases]
    valid = outputs["sum_valid_o"][:, 0].tolist()
    assert valid == [int(counts) for _, counts in golden]
    # A sum that is not valid means nothing.
    rows = [row for row, (_, counts) in enumerate(golden) if counts]
    assert sums[rows].tolist() == [golden[row][0] for row in rows]
    assert len(rows) > 500


def test_delay_by_abc_and_by_opensta_agree(library: Library) -> None:
    try:
        tools.require("sta")
    except BackendUnavailable as reason:
        pytest.skip(str(reason))
    for effort in EFFORTS:
        found = mapped_dot(lane_design(load("nvfp4")), library, effort)
        assert found.delay_by == "OpenSTA"
        assert found.delay == pytest.approx(found.abc_delay, rel=0.1)


def test_more_speed_costs_area(library: Library) -> None:
    small, fast = (
        mapped_dot(lane_design(load("nvfp4")), library, effort) for effort in ("small", "fast")
    )
    assert fast.delay < small.delay
    assert fast.area > small.area


def test_the_scaled_accumulate_runs_on_its_own_results(library: Library) -> None:
    bench = Bench(library, ("relaxed",), activity.gaussian_data())
    found = bench.format(load("nvfp4"))
    assert found.scale_apply is not None
    assert found.scale_apply.energy is not None
    assert found.dot.energy is not None
    assert found.dot.energy.vectors == activity.ROWS * activity.LENGTH // 16
    assert 0 < found.dot.energy.dynamic < found.dot.energy.glitching
    share = found.dot.energy.dynamic / 16 + found.scale_apply.energy.dynamic / 16
    assert found.energy_per_product == pytest.approx(share)


def test_a_dot_product_is_placed_on_an_fpga() -> None:
    try:
        tools.require("yosys", "nextpnr-ice40")
    except BackendUnavailable as reason:
        pytest.skip(str(reason))
    sources = {
        "top.v": module(
            "assign y_o = a_i * b_i;",
            "input wire [3:0] a_i, input wire [3:0] b_i, output wire [7:0] y_o",
        )
    }
    found = fpga.place_and_route(sources, "top")
    assert 16 < found.luts < 64
    assert found.mhz is not None
    assert 40 < found.mhz < 400


# -- BF16 ----------------------------------------------------------------------------------


def test_numbers_are_rounded_to_bf16_to_nearest_even() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    draws = np.random.default_rng(3)
    x = (draws.standard_normal(4096) * np.exp2(draws.integers(-60, 60, 4096))).astype(np.float32)
    x[:4] = [1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 0]
    expected = x.astype(ml_dtypes.bfloat16).view(np.uint16)
    assert bf16.rounded(x).tolist() == expected.tolist()


@pytest.mark.slow
def test_a_table_before_the_bf16_dot_product_changes_no_sum(library: Library) -> None:
    fmt = load("nf4_kbit")
    _, found = hosts.hosted(fmt, hosts.HOSTS["bf16"])
    bench = Bench(library, ("relaxed",), activity.gaussian_data())
    plain, hosted = bf16.dot(bench), bf16.hosted_dot(bench, fmt, found.grids)
    assert plain.energy is not None
    assert hosted.energy is not None
    assert hosted.first.area > 0.8 * plain.first.area
    assert hosted.energy.vectors == plain.energy.vectors
    codes = np.random.default_rng(5).integers(0, 16, (256, 16))
    words = np.array([fp32_bits(float(v)) >> 16 for v in found.grids[0].values])
    others = bf16.rounded(np.random.default_rng(6).standard_normal((256, 16)).astype(np.float32))
    inputs = {
        "codes_i": activity.lane_bits(codes, 4),
        "weights_i": activity.lane_bits(words[codes], 16),
        "activations_i": activity.lane_bits(others, 16),
    }
    results = []
    for sources, top in (bf16.sources(), bf16.hosted_sources(fmt, found.grids)):
        mapped = synthesize(sources, top, library, "relaxed", apart=bf16.apart(top))
        given = activity.selected(inputs, mapped.netlist.inputs)
        results.append(Simulation(mapped.netlist, library).run(given))
    left, right = results
    bits = left["sum_o"].shape[1]
    assert (left["sum_o"] == right["sum_o"][:, :bits]).all()
    assert (left["exponent_o"] == right["exponent_o"]).all()
