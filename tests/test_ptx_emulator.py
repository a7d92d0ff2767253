"""The PTX emulator: its language, its integers, and that an assembler takes whatever it takes."""

from __future__ import annotations

from functools import cache
from random import Random

import numpy as np
import ptx_harness
import ptx_meanings
import pytest
from fmtc.runtime.verify.ptx import PtxError, run
from fmtc.runtime.verify.ptx_forms import FORMS
from fmtc.runtime.verify.ptx_types import width_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ptx_harness import execute

INTEGERS = ptx_meanings.integers()
WORDS = st.integers(0, 2**32 - 1)
COUNTS = st.one_of(st.integers(0, 70), st.integers(0, 300), WORDS)


def u32(*numbers: int) -> np.ndarray:
    return np.array([n % 2**32 for n in numbers], np.uint32)


def run_one(asm: str, *inputs: np.ndarray, outputs: int = 1) -> list[list[int]]:
    constraints = ",".join(["=r"] * outputs + ["r"] * len(inputs))
    return [result.tolist() for result in run(asm, constraints, inputs)]


def test_every_instruction_has_a_second_meaning_to_be_held_against() -> None:
    conversions = {opcode for opcode in FORMS if opcode.startswith("cvt.")}
    meant = INTEGERS.keys() | ptx_meanings.arithmetic().keys() | conversions | {"lop3.b32"}
    assert meant == FORMS.keys()


def sources_of(opcode: str) -> list[list[int]]:
    """Corners and random bits for each operand; amounts around every width."""
    random = Random(7)
    found = []
    for kind in FORMS[opcode].takes:
        width = 1 if kind == "pred" else max(16, width_of(kind))
        top = 1 << width
        corners = [0, 1, top - 1, top >> 1, (top >> 1) - 1, 0x8421 % top, 8 % top, 31 % top]
        corners += [32 % top, 33 % top, 63 % top, 64 % top, 65 % top, 255 % top, 256 % top]
        drawn = [random.randrange(top) for _ in range(200)]
        small = [random.randrange(min(top, 80)) for _ in range(200)]
        found.append([*random.sample(corners * 8, 8 * len(corners)), *drawn, *small])
    return found


@pytest.mark.parametrize("opcode", INTEGERS)
def test_an_instruction_on_integers_means_what_the_isa_says(opcode: str) -> None:
    sources = sources_of(opcode)
    expected = [INTEGERS[opcode](*row) for row in zip(*sources, strict=True)]
    assert execute(opcode, *sources) == expected


@settings(max_examples=300, deadline=None)
@given(a=WORDS, b=WORDS, control=WORDS)
@example(a=0x80C0E0F0, b=0x7F3F1F0F, control=0xFEDCBA98)
def test_prmt_picks_bytes_and_replicates_signs(a: int, b: int, control: int) -> None:
    assert execute("prmt.b32", [a], [b], [control]) == [ptx_meanings.prmt(a, b, control)]


def test_prmt_looks_at_every_selector_of_sixteen_bits() -> None:
    control = list(range(65536))
    expected = [ptx_meanings.prmt(0x8001FF7F, 0x00FE4080, c) for c in control]
    words = ([0x8001FF7F] * 65536, [0x00FE4080] * 65536)
    assert execute("prmt.b32", *words, control) == expected


@pytest.mark.parametrize("table", range(256))
def test_lop3_is_its_truth_table(table: int) -> None:
    sources = sources_of("prmt.b32")
    expected = [ptx_meanings.lop3(*row, table) for row in zip(*sources, strict=True)]
    assert execute("lop3.b32", *sources, immediate=table) == expected


@settings(max_examples=300, deadline=None)
@given(a=WORDS, b=WORDS, start=COUNTS, length=COUNTS)
def test_fields_are_taken_out_and_put_in_by_bits(a: int, b: int, start: int, length: int) -> None:
    for kind in ("u32", "s32"):
        expected = ptx_meanings.bfe(kind, a, start, length)
        assert execute(f"bfe.{kind}", [a], [start], [length]) == [expected]
    expected = ptx_meanings.bfi(32, a, b, start, length)
    assert execute("bfi.b32", [a], [b], [start], [length]) == [expected]


@settings(max_examples=200, deadline=None)
@given(a=WORDS, b=WORDS, c=WORDS)
def test_dp4a_adds_four_products_of_bytes(a: int, b: int, c: int) -> None:
    for x in ("u32", "s32"):
        for y in ("u32", "s32"):
            assert execute(f"dp4a.{x}.{y}", [a], [b], [c]) == [ptx_meanings.dp4a(x, y, a, b, c)]


def test_a_snippet_runs_in_every_thread() -> None:
    asm = """{ // two statements a line, operands in braces and without
        .reg .b32 t<2>; .reg .pred p;
        and.b32 t0, $2, 0xF; shr.u32 t1, ${2}, 4; /* the other half */
        setp.ge.u32 p, t0, 8;
        mov.u32 $0, t0;
        @p sub.s32 $0, t0, 16;
        @!p add.u32 $0, $0, 0b100;
        add.u32 $1, t1, $3;
    }"""
    low, high = run(asm, "=r,=&r,r,r", [u32(*range(64)).reshape(8, 8), u32(-1)])
    codes = np.arange(64).reshape(8, 8)
    expected = np.where(codes % 16 >= 8, codes % 16 - 16, codes % 16 + 4)
    assert low.dtype == high.dtype == np.uint32
    assert np.array_equal(low.view(np.int32), expected)
    assert np.array_equal(high.view(np.int32), codes // 16 - 1)


def test_bits_of_any_type_are_taken_and_given_by_width() -> None:
    half, word = np.array([1.5], np.float16), np.array([2.0], np.float32)
    long = np.array([-2], np.int64)
    found = run(
        "mov.b16 $0, $4; mov.b32 $1, $5; mov.b64 $2, $6; mov.f32 $3, $7;",
        "=h,=r,=l,=f,h,r,l,f",
        [half, word, long, word],
    )
    assert [x.dtype for x in found] == [np.uint16, np.uint32, np.uint64, np.uint32]
    assert [hex(x[0]) for x in found] == [
        "0x3e00",
        "0x40000000",
        "0xfffffffffffffffe",
        "0x40000000",
    ]


def test_vectors_take_a_register_apart_from_its_lowest_bits_up() -> None:
    word, long = u32(0x44332211), np.array([0x8877665544332211], np.uint64)
    asm = "{ .reg .b16 a, b; mov.b32 {a, b}, $1; mov.b32 $0, {b, a}; }"
    assert run_one(asm, word) == [[0x22114433]]
    asm = "{ .reg .b8 a, b, c, d; mov.b32 {a, b, c, d}, $1; mov.b32 $0, {d, c, b, a}; }"
    assert run_one(asm, word) == [[0x11223344]]
    assert run("mov.b64 {_, $0}, $1;", "=r,l", [long])[0] == [0x88776655]
    assert run("mov.b64 $0, {$1, 7};", "=l,r", [word])[0] == [0x0000000744332211]
    asm = "{ .reg .b16 a<4>; mov.b64 {a0, a1, a2, a3}, $1; mov.b64 $0, {a3, a2, a1, a0}; }"
    assert run(asm, "=l,l", [long])[0] == [0x2211443366558877]


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("10", 10),
        ("-1", 0xFFFFFFFF),
        ("0xFFFFFFFF", 0xFFFFFFFF),
        ("0XaU", 10),
        ("0b101", 5),
        ("017", 15),
        ("- 2147483648", 0x80000000),
        ("0f3F800000", 0x3F800000),
    ],
)
def test_immediates_are_written_as_ptx_writes_them(text: str, bits: int) -> None:
    assert run_one(f"mov.b32 $0, {text};", u32(0)) == [[bits]]


def test_an_inner_scope_has_registers_of_its_own() -> None:
    asm = """{ .reg .b32 a, $$b; mov.b32 a, 1; { .reg .b32 a; mov.b32 a, 2; add.u32 $0, a, $1; }
        add.u32 $0, $0, a; }""".replace(", $$b", ", x$$b")
    assert run_one(asm, u32(10)) == [[13]]


def test_a_thread_may_read_what_it_alone_has_written() -> None:
    asm = """{ .reg .pred p; .reg .b32 t; setp.eq.u32 p, $1, 0;
        @p mov.b32 t, 5; @!p mov.b32 t, 6; mov.b32 $0, 0; @p add.u32 $0, t, 1; }"""
    assert run_one(asm, u32(0, 1)) == [[6, 0]]


@pytest.mark.parametrize(
    ("asm", "message"),
    [
        ("frob.b32 $0, $1;", r"no instruction 'frob.b32' is emulated: 'frob.b32 \$0, \$1;'"),
        ("add.ftz.f32 $0, $1, $1;", "no instruction 'add.ftz.f32'"),
        ("prmt.b32.f4e $0, $1, $1, 0;", "no instruction 'prmt.b32.f4e'"),
        ("mov.b32 $0, t;", r"there is no register 't': 'mov.b32 \$0, t;'"),
        ("mov.b32 t, $1;", "there is no register 't'"),
        ("mov.b32 $0, $7;", r"there is no register '\$7'"),
        ("{ .reg .b32 t; } mov.b32 $0, t;", "there is no register 't'"),
        ("{ .reg .b32 t; mov.b32 $0, t; }", "'t' is read before it is written"),
        ("mov.b32 $0, $0;", r"'\$0' is read before it is written"),
        (
            "{ .reg .pred p; setp.eq.u32 p, $1, 0; @p mov.b32 $0, 1; }",
            r"output '\$0' is not written",
        ),
        (
            "{ .reg .pred p; .reg .b32 t; setp.eq.u32 p, $1, 0; @p mov.b32 t, 1; mov.b32 $0, t; }",
            "'t' is read before it is written",
        ),
        ("", r"output '\$0' is not written"),
        ("mov.b32 $1, 0;", r"'\$1' is an input, and is written"),
        ("@$1 mov.b32 $0, 0;", r"'\$1' is no predicate"),
        ("{ .reg .pred p; @p mov.b32 $0, 0; }", "'p' is read before it is written"),
        ("{ .reg .b16 h; mov.b32 $0, $1; mov.b16 h, $1; }", r"'\$1' is .b32, which is no .b16"),
        ("{ .reg .f32 f; mov.f32 f, $1; add.u32 $0, f, 1; }", "'f' is .f32, which is no .u32"),
        ("{ .reg .b16 h; mov.b32 h, $1; }", "'h' is .b16, which cannot take .b32"),
        ("lop3.b32 $0, $1, $1, $1, $1;", "only an immediate"),
        ("lop3.b32 $0, $1, $1, $1, 256;", "256 does not fit .imm8"),
        ("lop3.b32 $0, $1, $1, $1, -1;", "-1 does not fit .imm8"),
        ("add.u32 $0, $1, 0x100000000;", "4294967296 does not fit .u32"),
        ("add.f32 $0, $1, 1;", "is written 0f"),
        ("add.u32 $0, $1, 0f3F800000;", "is written whole"),
        ("fma.rn.f16x2 $0, $1, $1, 0;", "an immediate cannot be .f16x2"),
        ("cvt.u32.u8 $0, 5;", "an immediate cannot be .u8"),
        ("add.u32 $0, $1;", "3 operands are needed"),
        ("mov.b32 5, $1;", "a result needs a register"),
        ("mov.b32 {$0, $0}, {$1, $1};", "to or from one register"),
        ("mov.u32 {$0, $0}, $1;", "take and give vectors"),
        ("mov.b32 {$0, $0, $0}, $1;", "3 parts do not make a .b32"),
        ("mov.b16 {$0, $0, $0, $0}, $1;", "which is no .b16"),
        ("mov.b32 {_, _}, $1;", "nobody takes the parts"),
        ("{ .reg .f16 h; mov.b32 {h, _}, $1; mov.b32 $0, {h, 5}; }", "beside a float"),
        ("bfe.u32 $0, $1, 256, 4;", "256 does not fit .index"),
        ("bfi.b32 $0, $1, $1, -1, 4;", "-1 does not fit .index"),
        ("mov.b32 _, $1;", "there is no register '_'"),
        ("{ .reg .b128 x; }", "no register type '.b128'"),
        ("{ .reg .b32 a, a; }", "register 'a' is declared twice: '.reg .b32 a, a;'"),
        ("{ .reg .b32 a.x; }", "'a.x' is no name of a register"),
        ("{ .reg .b32 _; }", "'_' is no name of a register"),
        (".reg .b32 $0;", r"'\$0' is no name of a register"),
        ("mov.b32 $0, $1", "';' is expected before 'the end'"),
        ("mov.b32 $0,", "the text ends"),
        ("mov.b32 $0, $1;;", "';' stands where an instruction is expected"),
        ("mov.b32 $0, 08;", "'08' is no octal number"),
        ("mov.b32 $0, -$1;", r"'\$1' is no integer"),
        ("mov.b32 $0, .x;", "'.x' is no operand"),
        ("{ mov.b32 $0, $1;", "never closed"),
        ("mov.b32 $0, $1; }", "closes no scope"),
        ("loop: bra loop;", "not PTX that can be emulated: ': bra loop;'"),
        ("ld.global.b32 $0, [$1];", "not PTX that can be emulated"),
        ("setp.eq.u32 p|q, $1, 0;", "not PTX that can be emulated"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(asm: str, message: str) -> None:
    with pytest.raises(PtxError, match=message):
        run_one(asm, u32(0, 1))


@pytest.mark.parametrize(
    ("constraints", "inputs", "message"),
    [
        ("=r,x", [u32(0)], "no constraint 'x'"),
        ("=r,0", [u32(0)], "no constraint '0'"),
        ("r,=r", [u32(0)], "outputs come first"),
        ("=r,r", [], "takes 1 inputs, here are 0"),
        ("=r,r", [np.zeros(1, np.uint16)], r"input \$1 has elements of type uint16, not of b32"),
    ],
)
def test_operands_that_do_not_fit_are_refused(
    constraints: str, inputs: list[np.ndarray], message: str
) -> None:
    with pytest.raises(PtxError, match=message):
        run("mov.b32 $0, $1;", constraints, inputs)


#: What is no single instruction, and yet emulated.
SYNTAX = (
    "{ .reg .b8 a<4>; .reg .b32 r; mov.b32 {a0,a1,a2,a3}, r; mov.b32 r, {a3,a2,a1,a0}; }",
    "{ .reg .b16 a<4>; .reg .b64 r; mov.b64 {a0,a1,a2,a3}, r; mov.b64 r, {a0,a1,a2,a3}; }",
    "{ .reg .b32 a<2>; .reg .b64 r; mov.b64 {a0,a1}, r; mov.b64 r, {a0,5}; mov.b64 {_,a0}, r; }",
    "{ .reg .f16 a<2>; .reg .f32 r; mov.b32 {a0,_}, r; mov.b32 r, {a0,a1}; mov.b32 {a0,a1}, -5; }",
    "{ .reg .b8 a<2>; .reg .b16 r; mov.b16 {a0,a1}, r; mov.b16 r, {a0,a1}; }",
    "{ .reg .pred p; .reg .b32 %r1, _x; @p mov.b32 _x, 017; @ ! p mov.b32 _x, - 5U; // so\n }",
    "{ .reg .b32 x$$y; { .reg .f32 x$$y; mov.b32 x$$y, 0b11; } /* and */ mov.b32 x$$y, 0XFU; }",
)


@cache
def uses_of(arch: str) -> list[str]:
    uses = [] if arch == "100a" else list(SYNTAX)
    for opcode, form in FORMS.items():
        if (form.arch == "100a") == (arch == "100a"):
            uses += ptx_harness.every_use(opcode, form)
    return uses


def compile_around(asm: str, arch: int) -> str:
    """The PTX of a kernel that holds the asm, once the assembler has taken it."""
    pytest.importorskip("torch", reason="torch is not installed")
    triton = pytest.importorskip("triton", reason="triton is not installed")
    import ptx_kernels
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {"x_ptr": "*i32", "asm": "constexpr"}
    source = ASTSource(ptx_kernels.through_asm, signature, {"asm": asm})
    return triton.compile(source, target=GPUTarget("cuda", arch, 32)).asm["ptx"]


@pytest.mark.parametrize(("arch", "least"), [("90", 1400), ("100a", 4)])
def test_the_assembler_takes_whatever_the_emulator_takes(arch: str, least: int) -> None:
    """Every instruction with every kind of register and immediate, as one kernel's asm."""
    uses = uses_of(arch)
    assert len(uses) >= least
    ptx = compile_around("\n".join([*uses, "mov.b32 $0, $1;"]), int(arch.rstrip("a")))
    assert f".target sm_{arch}" in ptx
    assert all(f" {opcode} " in ptx for opcode, form in FORMS.items() if form.arch == arch)


def test_what_the_assembler_refuses_would_be_seen() -> None:
    with pytest.raises(Exception, match="Arguments mismatch for instruction 'add'"):
        compile_around("{ .reg .f32 f; mov.b32 f, $1; add.u32 $0, f, 1; }", 90)
