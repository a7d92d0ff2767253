"""Products, sums and block dot products in RTL: a simulator against exact integers."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import pytest
from fmtc.codegen.design import Design, design_of, hif8_activation
from fmtc.codegen.verilog.adders import ONE, Gates, bits_of, products, reduced
from fmtc.codegen.verilog.bench import Bench, vector_bench
from fmtc.codegen.verilog.module import Module
from fmtc.codegen.verilog.parts.dot import dot, dot_bench
from fmtc.codegen.verilog.parts.dot_bf16 import BIAS, PRODUCT, WINDOW, dot_bf16, dot_bf16_bench
from fmtc.codegen.verilog.parts.multiply import multiply_bench
from fmtc.codegen.verilog.parts.sum import block_sum, levels, sum_bench
from fmtc.formats import compile_text
from fmtc.runtime.rtl.simulate import run_bench, write_bench
from rtl_tools import design, need

#: HIF words by a table, floats, integers, fixed point, two grids, signed zero, blocks of 16 to 64.
PAIRS = (
    ("sh4_hif7", None),
    ("sop_pair", None),
    ("e4m3_ue4m6", "e4m3_ue4m6"),
    ("mxint8", "mxint8"),
    ("nvfp4", "nvfp4"),
    ("nvint4", None),
    ("hif7_ue4m4", None),
    ("mxfp4", "mxfp8_e4m3"),
)
IDS = [f"{weights}-{activations or 'hif8'}" for weights, activations in PAIRS]


def in_blocks(block: int) -> Design:
    text = f'format short extends "sh4_hif7" {{ block {block}  check "" }}'
    return design_of(compile_text(text, "blocks of any length"), hif8_activation(block))


def assert_passes(bench: Bench, directory: Path) -> None:
    need("iverilog", "vvp")
    write_bench(bench, directory)
    result = run_bench(bench, directory)
    assert result.passed, result.log
    assert result.vectors == bench.vectors


# -- single bits -----------------------------------------------------------------------------


def evaluated(gates: Gates, bits: list[str], given: dict[str, int]) -> int:
    """The number that the gates make of given bits, by Python's own operators."""
    names = {re.sub(r"\W", "_", name): value for name, value in given.items()}
    for name, expression in gates.statements:
        python = re.sub(r"\[(\d+)\]", r"_\1_", expression).replace("~", "1 ^ ")
        names[name] = eval(python, {}, names)
    known = {"1'b0": 0, ONE: 1}
    return sum(
        (known[bit] if bit in known else names[re.sub(r"\W", "_", bit)]) << place
        for place, bit in enumerate(bits)
    )


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize(("left", "right"), [(2, 2), (3, 3), (5, 5), (3, 6), (6, 2)])
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_gates_multiply(left: int, right: int, lost: int, signed: bool) -> None:
    gates, width = Gates(), left + right - lost
    columns = products(gates, bits_of("a", left), bits_of("b", right), width, signed=signed)
    bits = reduced(gates, columns)
    for a in range(1 << left):
        for b in range(1 << right):
            given = {f"a[{i}]": a >> i & 1 for i in range(left)}
            given |= {f"b[{i}]": b >> i & 1 for i in range(right)}
            x = a - (1 << left) * (signed and a >> (left - 1))
            y = b - (1 << right) * (signed and b >> (right - 1))
            assert evaluated(gates, bits, given) == x * y % (1 << width)


def test_no_gate_is_made_that_nothing_reads() -> None:
    gates = Gates()
    bits = reduced(gates, products(gates, bits_of("a", 5), bits_of("b", 5), 8, signed=True))
    read = " ".join([*bits, *(expression for _, expression in gates.statements)])
    assert [name for name, _ in gates.statements if not re.search(rf"\b{name}\b", read)] == []


def test_five_bits_by_five_take_as_many_adders_as_dadda_counts() -> None:
    """Every full adder takes a bit away: 25 bits and two constants become ten."""
    gates = Gates()
    reduced(gates, products(gates, bits_of("a", 5), bits_of("b", 5), 10, signed=True))
    halves = [name for name, _ in gates.statements if name.startswith("half")]
    assert len(halves) == 15


@pytest.mark.parametrize("terms", [1, 2, 3, 5, 16, 33])
def test_a_tree_has_an_adder_less_than_terms_and_no_wider_words_than_it_needs(terms: int) -> None:
    tree = levels(terms, 17, 20)
    assert sum(level.terms // 2 for level in tree) == terms - 1
    assert all(level.wide == min(level.bits + 1, 20) for level in tree)


# -- modules ---------------------------------------------------------------------------------


@pytest.mark.parametrize("names", PAIRS, ids=IDS)
def test_products_are_exact(names: tuple[str, str | None], tmp_path: Path) -> None:
    assert_passes(multiply_bench(design(names)), tmp_path)


@pytest.mark.parametrize("names", PAIRS, ids=IDS)
def test_sums_are_exact(names: tuple[str, str | None], tmp_path: Path) -> None:
    assert_passes(sum_bench(design(names)), tmp_path)


@pytest.mark.parametrize("names", PAIRS, ids=IDS)
def test_dot_products_are_exact(names: tuple[str, str | None], tmp_path: Path) -> None:
    assert_passes(dot_bench(design(names)), tmp_path)


@pytest.mark.parametrize("block", [4, 12, 36])
def test_blocks_of_any_length_are_summed(block: int, tmp_path: Path) -> None:
    """One group or several, the last of them short; lanes without a partner in the tree."""
    made = in_blocks(block)
    assert_passes(sum_bench(made), tmp_path)
    assert_passes(dot_bench(made), tmp_path)


@pytest.mark.slow
def test_the_longest_block_is_summed(tmp_path: Path) -> None:
    assert_passes(dot_bench(in_blocks(4096)), tmp_path)


def test_few_operands_are_all_tried() -> None:
    bench = multiply_bench(design(("sh4_hif7", None)))
    assert bench.vectors == 32 * 4 * 32 * 5


def test_the_header_says_how_wide_a_sum_is() -> None:
    text = block_sum(design(("sh4_hif7", None))).text().replace("\n// |     ", " ")
    assert "16 * -30720 = -491520 .. 16 * 32768 = 524288: 21 bits" in text


@pytest.mark.parametrize("part", ["multiply", "sum"])
def test_a_wrong_gate_fails(part: str, tmp_path: Path) -> None:
    need("iverilog", "vvp")
    made = design(("sh4_hif7", None))
    bench = multiply_bench(made) if part == "multiply" else sum_bench(made)
    write_bench(bench, tmp_path)
    path = tmp_path / "rtl" / f"{bench.module.name}.v"
    right = path.read_text()
    gate = (r"(sum_\d+ = half_\d+) \^", r"\1 &") if part == "multiply" else ("a & b;", "a | b;")
    wrong = re.sub(*gate, right, count=1)
    assert wrong != right
    path.write_text(wrong)
    assert not run_bench(bench, tmp_path).passed


# -- the baseline ----------------------------------------------------------------------------


def test_bf16_products_are_aligned_and_summed(tmp_path: Path) -> None:
    assert_passes(dot_bf16_bench(design(("sh4_hif7", None))), tmp_path)


def test_bf16_sums_are_those_of_rational_numbers(tmp_path: Path) -> None:
    """Of equal exponents, nothing is cut off: the sum is that of the numbers themselves."""
    random, rows = Random(7), []
    made = design(("sh4_hif7", None))
    for _ in range(50):
        pairs = [(random.randrange(-255, 256), random.randrange(-255, 256)) for _ in range(16)]
        pairs = [(x or 1, y or 1) for x, y in pairs]
        scaled = [(x | 128 if x > 0 else -(-x | 128), y | 128 if y > 0 else -(-y | 128))
                  for x, y in pairs]  # fmt: skip
        exact = sum(x * y for x, y in scaled)
        # Significands of eight bits, with exponent field 134, are integers.
        words = [[bf16(number) for number in side] for side in zip(*scaled, strict=True)]
        rows.append(
            {
                "weights_i": packed(words[0]),
                "activations_i": packed(words[1]),
                "sum_valid_o": 1,
                "exponent_o": 2 * 134,
                "sum_o": exact << (BIAS + WINDOW - PRODUCT - 2 * 134),
            }
        )
    assert_passes(vector_bench(dot_bf16(made), rows, variant="integers"), tmp_path)


def bf16(number: int) -> int:
    """An integer of eight significant bits."""
    return (number < 0) << 15 | 134 << 7 | abs(number) & 0x7F


def packed(words: list[int]) -> int:
    return sum(word << (16 * lane) for lane, word in enumerate(words))


# -- lint ------------------------------------------------------------------------------------


#: Name -> the module; a block of 100 is summed in groups.
LINTED: dict[str, Callable[[], Module]] = {
    **{
        f"dot-{name}": partial(lambda pair: dot(design(pair)), pair)
        for name, pair in zip(IDS, PAIRS, strict=True)
    },
    "dot-4": lambda: dot(in_blocks(4)),
    "dot-100": lambda: dot(in_blocks(100)),
    "bf16": lambda: dot_bf16(design(PAIRS[0])),
    "bf16-5": lambda: dot_bf16(in_blocks(5)),
}


@pytest.mark.parametrize("name", LINTED)
def test_lint_has_nothing_to_say(name: str, tmp_path: Path) -> None:
    need("iverilog", "verilator")
    module, names = LINTED[name](), []
    for used in module.closure:
        (tmp_path / f"{used.name}.v").write_text(used.text(), encoding="ascii")
        assert max(map(len, used.text().splitlines())) <= 100
        names.append(f"{used.name}.v")
    language = ["--default-language", "1364-2005", "--timing"]
    for command in (
        ["iverilog", "-g2005", "-Wall", "-tnull", "-s", module.name, *names],
        ["verilator", "--lint-only", "-Wall", *language, "--top-module", module.name, *names],
    ):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
