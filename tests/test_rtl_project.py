"""What stands around the modules: a Makefile, a file list, a FuseSoC core and a README."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fmtc import formats
from fmtc.codegen import emit
from fmtc.codegen.design import design_of
from fmtc.codegen.verilog import benches_of, modules_of
from rtl_tools import need

NAME = "mxfp4"
FUSESOC = Path(sys.executable).with_name("fusesoc")


@pytest.fixture(scope="module")
def design():
    return design_of(formats.load(NAME))


@pytest.fixture
def built(tmp_path):
    for name, text in emit(formats.load(NAME), "verilog").items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def make(folder, *arguments):
    return subprocess.run(
        ["make", *arguments], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_file_list_has_every_module_after_what_it_uses(design):
    listed = emit(formats.load(NAME), "verilog")[f"{NAME}.f"].splitlines()
    files = [line for line in listed if not line.startswith("#")]
    assert files == [f"rtl/{module.name}.v" for module in modules_of(design)]
    for module in modules_of(design):
        at = files.index(f"rtl/{module.name}.v")
        assert all(files.index(f"rtl/{used.name}.v") < at for used in module.uses)


def test_the_makefile_simulates_every_bench_and_stops_at_a_wrong_bit(built, design):
    need("iverilog", "make")
    done = make(built, "sim")
    assert done.returncode == 0, done.stderr
    for bench in benches_of(design):
        assert f"PASS {bench.name} {bench.vectors} vectors" in done.stdout
    path = built / f"rtl/{NAME}_element_decoder.v"
    text = path.read_text()
    assert "4'h7: word = {1'b1, 3'h3" in text
    path.write_text(text.replace("4'h7: word = {1'b1, 3'h3", "4'h7: word = {1'b1, 3'h2"))
    again = make(built, "sim")
    assert again.returncode != 0
    assert f"FAIL {NAME}_decoder" in again.stdout


def test_the_makefile_lints_and_stops_at_a_warning(built):
    need("iverilog", "verilator", "make")
    done = make(built, "lint")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    path = built / f"rtl/{NAME}_scale_decoder.v"
    path.write_text(path.read_text().replace("endmodule", "  wire [7:0] loose = 9'd0;\nendmodule"))
    assert make(built, "lint").returncode != 0


def test_the_makefile_synthesizes(built):
    need("yosys", "make")
    done = make(built, f"build/{NAME}_decoder.stat")
    assert done.returncode == 0, done.stderr
    assert "Number of cells" in done.stdout


@pytest.mark.parametrize("target", ["sim_decoder", "sim_dot", "lint_dot"])
def test_fusesoc_takes_the_core_file(built, target):
    need("iverilog", "verilator")
    if not FUSESOC.is_file():
        pytest.skip("fusesoc is not installed (pip install fusesoc)")
    done = subprocess.run(
        [FUSESOC, "--cores-root", ".", "run", f"--target={target}", f"fmtc:formats:{NAME}"],
        cwd=built,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if target.startswith("sim"):
        assert f"PASS {NAME}_{target[4:]} " in done.stdout + done.stderr


def test_the_readme_says_what_every_port_of_every_module_means(design):
    text = emit(formats.load(NAME), "verilog")["README.md"]
    for module in modules_of(design):
        section = text.split(f"### {module.name}\n")[1].split("\n### ")[0]
        assert f"Latency: {module.latency}." in section
        for port in module.ports:
            way = "in" if port.is_input else "out"
            assert f"| `{port.name}` | {way} | {port.bits}" in section
            assert port.meaning.replace("|", "\\|") in section
        for parameter in module.parameters:
            assert f"| `{parameter.name}` | {parameter.default} | {parameter.meaning} |" in section


def test_the_readme_derives_the_widths_of_the_datapath():
    text = emit(formats.load("sop_pair"), "verilog")["README.md"]
    assert "| product of coefficients | -240..256 | 10 |" in text
    assert "| shift | 0..7 | 3 | 3 + 4 |" in text
    assert "| term: the shifted product | -30720..32768 | 17 |" in text
    assert "| block sum | -491520..524288 | 21 | 16 equal terms reach the ends |" in text


def test_a_title_cannot_leave_its_place_in_any_file():
    from fmtc.compiler.resolve import compile_text

    hostile = 'x\\" ]} - evil: $(shell touch here) `id` */ <b>'
    fmt = compile_text(f'format plain "{hostile}" {{ block 4  grid e2m1  scale e8m0 }}')
    files = emit(fmt, "verilog")
    core = files["plain.core"]
    described = next(line for line in core.splitlines() if line.startswith("description: "))
    assert json.loads(described.removeprefix("description: "))
    for line in files["Makefile"].splitlines():
        assert "touch here" not in line or line.startswith("# ")
