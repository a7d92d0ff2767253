"""The emitted Verilog as text: golden files, conventions, determinism."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fmtc import formats
from fmtc.codegen import emit
from fmtc.codegen.design import design_of
from fmtc.compiler.datapath.operands import operand_of
from representatives import PLAIN

GOLDEN = Path(__file__).parent / "golden/verilog"
OWN = sorted((GOLDEN / "formats").glob("*.fmt"))
EVERY = [*PLAIN, *OWN]


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.v")), ids=lambda p: p.name)
def test_the_text_is_the_committed_one(path):
    name = "sop_pair" if path.name.startswith("sop_pair") else "mxfp4"
    assert emit(formats.load(name), "verilog")[f"rtl/{path.name}"] == path.read_text(), (
        "if the change is meant: make golden"
    )


def test_the_committed_modules_are_the_decoders_and_a_dot_product():
    assert {path.name for path in GOLDEN.glob("*.v")} == {
        "mxfp4_decoder.v",
        "mxfp4_element_decoder.v",
        "mxfp4_scale_decoder.v",
        "sop_pair_decoder.v",
        "sop_pair_dot.v",
        "sop_pair_element_decoder.v",
        "sop_pair_scale_decoder.v",
    }


@pytest.mark.parametrize("name", EVERY, ids=str)
def test_the_text_follows_the_conventions(name):
    fmt = formats.load(name)
    activations = design_of(fmt).activations.fmt
    files = {n: t for n, t in emit(fmt, "verilog").items() if n.endswith(".v")}
    assert len(files) >= 6
    for file, text in files.items():
        assert text.isascii()
        assert text.endswith("`default_nettype wire\n")
        owner = activations if Path(file).name.startswith(activations.name) else fmt
        assert owner.content_hash in text
        assert re.search(rf"^module {Path(file).stem}\b", text, re.MULTILINE)
        code = [line for line in text.splitlines() if not line.lstrip().startswith("//")]
        assert code[0] == "`default_nettype none"
        for line in text.splitlines():
            assert len(line) <= 100, line
            assert line == line.rstrip()
            assert "\t" not in line
        if not file.endswith("_tb.v"):
            assert not re.search(r"'[bh][0-9a-f]*[xz]", " ".join(code)), "an X or Z literal"
            assert not re.search(r"#\s*[^(\s]", " ".join(code)), "a delay"


@pytest.mark.parametrize("name", EVERY, ids=str)
def test_a_users_words_never_open_a_comment(name):
    for text in emit(formats.load(name), "verilog").values():
        for comment in re.findall(r"//\s*(.*)", text):
            assert not re.match(r"verilator|synopsys|synthesis|pragma|cadence", comment)
        assert "/*" not in text


def test_every_number_of_a_grid_stands_in_the_table_with_code_value_and_word():
    fmt = formats.load("sop_pair")
    text = emit(fmt, "verilog")["rtl/sop_pair_element_decoder.v"]
    for index, grid in enumerate(fmt.grids):
        for code, value in enumerate(grid.values):
            word = operand_of(fmt).words[index][code]
            assert (
                f"5'h{index << 4 | code:02x}: word = {{1'b1, 5'h{word.coefficient & 31:02x}, "
                f"2'd{word.shift}}};  // = {value} = {word.coefficient} * 2^{word.shift}, "
                f"code {code} of {grid.name}\n"
            ) in text


def test_codes_that_are_no_numbers_have_no_table_entry():
    fmt = formats.load(GOLDEN / "formats/fp8_with_nan.fmt")
    text = emit(fmt, "verilog")["rtl/fp8_with_nan_element_decoder.v"]
    assert text.count(": word = ") == 254 + 1  # the default
    assert "8'h7f" not in text
    assert "8'hff" not in text


@pytest.mark.parametrize("target", ["verilog", "vectors"])
@pytest.mark.parametrize("name", ["po2_nf4", str(GOLDEN / "formats/three_grids.fmt")])
def test_generation_repeats_byte_for_byte_in_another_process(target, name):
    program = (
        "import hashlib, sys\n"
        "from fmtc import formats\n"
        "from fmtc.codegen import emit\n"
        "files = emit(formats.load(sys.argv[1]), sys.argv[2])\n"
        "print(hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program, name, target],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_a_long_name_keeps_the_lines_short():
    from fmtc.compiler.resolve import compile_text

    name = "a" * 60
    fmt = compile_text(f"format {name} {{ block 4  grid e2m1  scale e8m0 }}")
    for name, text in emit(fmt, "verilog").items():
        if name.endswith(".v"):
            assert max(map(len, text.splitlines())) <= 100
