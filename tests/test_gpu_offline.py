"""Product kernels compiled for GPUs that are not here: spills, registers, instructions a weight."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from functools import cache
from types import SimpleNamespace

import pytest
from fmtc.compiler.format import Format, Grid
from fmtc.compiler.kernel import kernel_format
from fmtc.formats import load, names
from fmtc.runtime.triton_offline import OfflineCompileError

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

from fmtc.codegen.triton.products import Method, methods_of  # noqa: E402
from fmtc.codegen.triton.products.decoded import Decoded  # noqa: E402
from fmtc.codegen.triton.strategies import Strategy, strategies_of  # noqa: E402
from fmtc.runtime.gpu import candidates  # noqa: E402
from fmtc.runtime.gpu.offline import ProductReport, compile_product, decode_cost  # noqa: E402

#: A100, H100 and H200, B200, GeForce Blackwell; MI300.
CUDA, AMD = (80, 90, 100, 120), "gfx942"

#: One of each: a codebook chosen by select bits, fields, planes, zero points, minima, tables.
REPRESENTATIVES = ("po2_nf4", "nvfp4", "lut3", "int4_asym_g128", "q4_k", "nf5")

#: What the twin is compiled with.
AMD_GEMV = {"rows": 1, "units": 64, "warps": 1}
AMD_GEMM = {"block_m": 16, "block_n": 64, "block_k": 128, "warps": 4, "stages": 2}

#: Tiles of few activations.
SMALL = [tile for tile in candidates._TILES if tile[0] == 16]


@cache
def kernel_of(name: str) -> Format:
    return kernel_format(load(name))


def default(name: str, operation: str, arch: int = 90) -> Method:
    """The best method that an architecture has."""
    wanted = "gemv" if operation.endswith("gemv") else "gemm"
    return next(
        m for m in methods_of(kernel_of(name)) if wanted in m.operations and m.least_arch <= arch
    )


@cache
def compiled(
    name: str, operation: str, arch: int | str, m: int = 1, **config: int
) -> ProductReport:
    method = default(name, operation, 80 if isinstance(arch, str) else arch)
    return compile_product(kernel_of(name), operation, method, arch, m, config)


def tile(shape: tuple[int, ...]) -> dict[str, int]:
    return dict(zip(("block_m", "block_n", "block_k", "warps", "stages"), shape, strict=True))


def gemv_configs(name: str, m: int = 1) -> list[dict[str, int]]:
    """The configurations that are tried on a device."""
    weights = SimpleNamespace(rows=4096, length=4096)
    found = candidates._gemv_candidates(weights, default(name, "gemv"), m, 132)
    return [{key: int(c.config[key]) for key in ("rows", "units", "warps")} for c in found]


def assert_fits(report: ProductReport) -> None:
    assert (report.stack, report.local) == (0, 0), report
    assert 16 <= report.registers <= 255, report
    assert report.shared <= 99 * 1024, report


# -- the budgets ----------------------------------------------------------------


def strategy_named(name: str, wanted: str) -> Strategy:
    (found,) = [s for s in strategies_of(kernel_of(name)) if s.name == wanted]
    return found


def test_e2m1_is_decoded_in_1_9_instructions_a_value() -> None:
    for strategy in (strategy_named("nvfp4", "e4m3"), strategy_named("nvfp4", "shift")):
        assert 1 <= decode_cost(strategy).all <= 1.9


def test_a_codebook_of_two_grids_is_decoded_in_3_7_instructions_a_value() -> None:
    assert 3 <= decode_cost(strategy_named("po2_nf4", "permute2")).all <= 3.7


@pytest.mark.parametrize("name", ["nf4", "po2_nf4"])
def test_a_codebook_gemv_takes_5_4_instructions_a_weight(name: str) -> None:
    reports = [compiled(name, "gemv", 90, **config) for config in gemv_configs(name)]
    found = [report.per_weight for report in reports if not report.spills]
    assert 4 <= min(found) <= 5.4


@pytest.mark.parametrize("name", ["po2_nf4", "bof4_16", "split87"])
def test_a_codebook_gemm_takes_7_3_instructions_a_weight_in_blocks_of_16(name: str) -> None:
    for shape in SMALL[:2]:
        report = compiled(name, "gemm", 90, 16, **tile(shape))
        assert not report.spills
        assert 4 <= report.per_weight <= 7.3, shape


@cache
def distinct() -> dict[str, Strategy]:
    """The strategies of shipped formats that differ by more than the numbers in their tables."""
    found: dict[str, Strategy] = {}
    for name in names():
        for s in strategies_of(kernel_of(name)):
            found.setdefault(f"{s.name}-{s.bits}-bits-{s.tables}-tables", s)
    return found


@pytest.mark.parametrize("key", distinct())
def test_what_a_strategy_is_said_to_cost_is_what_it_takes(key: str) -> None:
    strategy = distinct()[key]
    said, found = strategy.cost, decode_cost(strategy)
    for kind in ("all", "integer", "memory"):
        a, b = getattr(said, kind), getattr(found, kind)
        assert abs(a - b) <= max(0.3, 0.25 * b), (kind, found)


def test_tables_in_registers_are_no_dearer_than_constants() -> None:
    strategy = strategy_named("nf4", "permute2")
    assert decode_cost(strategy, loads=True).all <= decode_cost(strategy).all


# -- every module -----------------------------------------------------------------------


@pytest.mark.parametrize("arch", CUDA)
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_no_product_spills(name: str, arch: int) -> None:
    assert_fits(compiled(name, "gemv", arch))
    assert_fits(compiled(name, "gemm", arch, 16))
    if arch == 90:
        for operation in ("expand", "prepare_gemv", "prepare_gemm"):
            assert_fits(compiled(name, operation, arch))


@pytest.mark.parametrize(("name", "operation"), [("nvfp4", "gemm"), ("int8_sym_row", "gemv")])
def test_the_twin_compiles_for_amd(name: str, operation: str) -> None:
    few = AMD_GEMV if operation == "gemv" else AMD_GEMM
    report = compiled(name, operation, AMD, 16 if operation == "gemm" else 1, **few)
    assert report.target == AMD
    assert not report.spills
    assert report.registers > 0
    assert "amdgcn-amd-amdhsa" in report.text


@pytest.mark.slow
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_every_twin_compiles_for_amd(name: str) -> None:
    assert not compiled(name, "gemv", AMD, **AMD_GEMV).spills
    assert not compiled(name, "gemm", AMD, 16, **AMD_GEMM).spills
    for operation in ("expand", "prepare_gemv", "prepare_gemm"):
        assert not compiled(name, operation, AMD).spills


@pytest.mark.slow
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_no_candidate_of_a_gemv_spills(name: str) -> None:
    for m in (1, 2, 4, 8):
        for config in gemv_configs(name, m):
            assert_fits(compiled(name, "gemv", 90, m, **config))


@pytest.mark.slow
@pytest.mark.parametrize("arch", CUDA)
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_few_candidates_of_a_gemm_spill(name: str, arch: int) -> None:
    """All tiles compile; only the largest may spill, and the autotuner does not take it then."""
    for shape in candidates.tiles_of(arch):
        report = compiled(name, "gemm", arch, shape[0], **tile(shape))
        assert not report.spills or shape[0] * shape[1] >= 64 * 128, shape
        assert takes_one(report) or default(name, "gemm").name == "half_table"


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_every_shipped_format_compiles(name: str) -> None:
    for operation in ("gemv", "gemm", "expand"):
        assert_fits(compiled(name, operation, 90, 16 if operation == "gemm" else 1))
    for method in methods_of(kernel_of(name)):
        if "gemv" in method.operations and method.least_arch <= 90:
            report = compile_product(kernel_of(name), "gemv", method, 90)
            # The assembler leaves two values in memory for a program more on a multiprocessor, in
            # some of the ways that are not the first.
            assert report.stack <= 8, report
            assert report.local == 0, report


# -- what runs of assembly are given ----------------------------------------------------


def takes_one(report: ProductReport) -> bool:
    """Whether every run of assembly takes one element of each tensor.

    Of more it takes those that are neighbours in a thread's registers: whichever columns the
    layout puts there, and Triton chooses that.
    """
    packed = re.findall(r"packed_element = (\d+)", report.ttgir)
    return bool(packed) and set(packed) == {"1"}


@pytest.mark.parametrize("operation", ["gemv", "gemm", "expand"])
@pytest.mark.parametrize("name", ["po2_nf4", "mxfp4", "q5_0", "mxfp8_e5m2", "int3_sym_g128"])
def test_a_run_of_assembly_takes_one_word(name: str, operation: str) -> None:
    assert takes_one(compiled(name, operation, 90, 16 if operation == "gemm" else 1))


# -- the tool itself --------------------------------------------------------------------


def test_a_report_says_what_was_compiled() -> None:
    report = compiled("nvfp4", "gemv", 90)
    assert (report.kernel, report.target, report.warps) == ("nvfp4_gemv_kernel", "sm_90", 2)
    assert report.weights == 4 * 64 * 32 / 64  # rows x units x 32 columns, for 64 threads
    assert report.passes == 1
    assert sum(report.pipes.values()) == pytest.approx(report.per_weight)
    assert report.pipes["convert"] == pytest.approx(0.5)  # two E4M3 bytes at a time
    assert ".target sm_90" in report.text
    decoded = report.loop.count_of("HFMA2.MMA") + report.loop.count_of("HFMA2")
    assert decoded >= report.weights / 2


def test_a_multiply_add_of_eight_vectors_costs_no_decoding_more() -> None:
    one, four = (compiled("nvfp4", "gemv", 90, m, rows=2, units=64, warps=2) for m in (1, 4))
    assert four.pipes["convert"] == pytest.approx(one.pipes["convert"])
    assert four.per_weight - one.per_weight < 3 * 1.3


def test_what_cannot_be_compiled_is_said() -> None:
    with pytest.raises(OfflineCompileError, match="nvfp4_gemv_kernel for sm_80"):
        compile_product(kernel_of("nvfp4"), "gemv", "e4m3", 80)
    with pytest.raises(ValueError, match="is not multiplied by 'wizardry'"):
        compile_product(kernel_of("nvfp4"), "gemv", "wizardry", 90)


def test_a_decoding_that_is_twice_as_long_costs_twice_as_much() -> None:
    """The measure, measured: a strategy that decodes a word twice over."""
    strategy = strategy_named("nvfp4", "shift")

    def twice(s, words, chooses):
        first = strategy.pairs(s, words, chooses)
        again = strategy.pairs(s, [s.do("xor", words[0], 0x12345678)], chooses)
        return tuple(s.do("xor", a, b) for a, b in zip(first, again, strict=True))

    once, both = decode_cost(strategy), decode_cost(replace(strategy, pairs=twice))
    # Two decodings, a XOR of the word, and four to put the pairs together; some XORs merge.
    assert 2 * once.all - 0.5 <= both.all <= 2 * once.all + 5 / 8


def test_generated_grids_compile() -> None:
    """A method of decoding for every kind of grid, wherever its values come from."""
    fmt = kernel_of("mxfp4")
    books = (
        [Fraction(i * i, 8) for i in range(-8, 8)],
        [Fraction(i, 3 + i % 2) for i in range(16)],
        [Fraction(1, 3) * i for i in range(4)],
    )
    for book in books:
        made = replace(fmt, grids=(Grid("g", "codebook", tuple(book)),), name="made")
        method = methods_of(made)[0]
        assert isinstance(method, Decoded)
        assert_fits(compile_product(made, "gemv", method, 90))
