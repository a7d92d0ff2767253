"""Machine code as text: instructions, the units that they go to, and loops."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import pytest
from fmtc.runtime import sass
from fmtc.runtime.sass import PIPES, Listing, SassError, disassemble, parse

BY_HAND = (Path(__file__).parent / "data" / "sass" / "two_loops.txt").read_text(encoding="utf-8")

#: The pipes that the documentation promises.
KNOWN = {
    *("int", "fma", "double", "convert", "memory", "shuffle", "tensor"),
    *("control", "uniform", "move", "dp4a"),
}

#: A100, H100, B200, RTX PRO 6000.
ARCHITECTURES = (80, 90, 100, 120)


def line(text: str) -> str:
    return f"        /*0000*/                   {text} ;\n"


def test_an_instruction_is_read_with_its_parts() -> None:
    at = {i.address: i for i in parse(BY_HAND).instructions}
    assert len(at) == 23
    load = at[0x40]
    assert (load.predicate, load.opcode, load.modifiers) == ("", "LDG", ("E", "128", "CONSTANT"))
    assert load.text == "LDG.E.128.CONSTANT R8, desc[UR4][R6.64]"
    assert (at[0x20].predicate, at[0x20].target) == ("@!P0", 0x110)
    assert (at[0xB0].predicate, at[0xB0].opcode) == ("@!UP0", "UIADD3")
    assert [at[address].target for address in (0x40, 0x110, 0xC0, 0x150)] == [
        None,
        None,
        0x40,
        0x150,
    ]


def test_what_may_do_nothing_is_guarded() -> None:
    at = {i.address: i.guarded for i in parse(BY_HAND).instructions}
    assert {address for address, guarded in at.items() if guarded} == {
        0x20, 0x50, 0x90, 0xB0, 0xC0, 0xF0, 0x130
    }  # fmt: skip
    assert parse(".L_x_0:\n" + line("BRA.DIV ~URZ, `(.L_x_0)")).instructions[0].guarded


def test_notes_of_the_scheduler_are_no_part_of_the_text() -> None:
    at = {i.address: i.text for i in parse(BY_HAND).instructions}
    assert at[0x50] == "@!P1 LDG.E R12, desc[UR4][R6.64+0x10]"
    assert at[0x60] == "PRMT R13, R8, 0x7654, R9"


@pytest.mark.parametrize(
    ("text", "pipe"),
    [
        ("LOP3.LUT R1, R2, R3, RZ, 0xc0, !PT", "int"),
        ("PRMT R1, R2, 0x5410, R3", "int"),
        ("IMAD.MOV.U32 R1, RZ, RZ, R2", "fma"),
        ("HADD2.F32 R1, -RZ, R2.H0_H0", "fma"),
        ("HFMA2.BF16_V2 R1, R2, R3, R4", "fma"),
        ("F2FP.F16.F32.PACK_AB R1, R2, R3", "convert"),
        ("I2F.U8 R1, R2.B1", "convert"),
        ("DMUL R2, R4, 0.5", "double"),
        ("LDGSTS.E.BYPASS.128 [R1], desc[UR4][R2.64]", "memory"),
        ("LDTM.x32 R4, tmem[UR4]", "memory"),
        ("UTMALDG.2D [UR8], [UR4]", "memory"),
        ("SHFL.IDX PT, R1, R2, RZ, 0x1f", "shuffle"),
        ("HGMMA.64x64x16.F32 R24, gdesc[UR16], R24", "tensor"),
        ("UTCHMMA gdesc[UR6], gdesc[UR8], tmem[UR24], tmem[UR34], idesc[UR35], UPT", "tensor"),
        ("BAR.SYNC.DEFER_BLOCKING 0x0", "control"),
        ("ULOP3.LUT UR4, UR4, 0x1, URZ, 0xc0, !UPT", "uniform"),
        ("R2UR UR4, R0", "uniform"),
        ("S2R R0, SR_TID.X", "move"),
        ("IDP.4A.S8.S8 R1, R2, R3, R1", "dp4a"),
        ("XYZZY R1", "other"),
    ],
    ids=lambda value: value.split()[0],
)
def test_every_instruction_goes_to_one_unit(text: str, pipe: str) -> None:
    assert parse(line(text)).by_pipe() == {pipe: 1}
    assert pipe in KNOWN | {"other"}


def test_the_table_names_the_promised_pipes_only() -> None:
    assert set(PIPES.values()) == KNOWN


def test_loops_are_found_from_the_inside_out() -> None:
    loops = parse(BY_HAND).loops
    assert [(loop.start, loop.count, loop.depth, loop.inner) for loop in loops] == [
        (0x40, 9, 1, True),
        (0x30, 13, 0, False),
        (0x120, 2, 0, True),
    ]
    assert parse(BY_HAND).inner == (loops[0], loops[2])
    assert loops[0].by_pipe() == {
        "memory": 2, "fma": 2, "control": 2, "int": 1, "dp4a": 1, "uniform": 1
    }  # fmt: skip


def test_the_way_back_from_code_out_of_line_closes_no_loop() -> None:
    """``BRA .L_x_6`` at 0x140 leads back into a loop that it does not belong to."""
    assert 0xA0 not in {loop.start for loop in parse(BY_HAND).loops}


def test_the_trap_behind_the_end_is_no_loop() -> None:
    assert 0x150 not in {loop.start for loop in parse(BY_HAND).loops}


def test_instructions_are_counted_by_name_and_modifiers() -> None:
    inner = parse(BY_HAND).loops[0]
    assert inner.count_of("LDG") == 2
    assert inner.count_of("LDG.128") == inner.count_of("LDG.CONSTANT.E") == 1
    assert inner.count_of("LDG.128", "LDG", "PRMT") == 3
    assert inner.count_of("LD") == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no instructions"),
        ("Fatal: not a cubin", "no instructions"),
        (line("???"), r"no instruction at 0x0000: '\?\?\? ;'"),
        ("        /*0000*/    MOV R1, R2", "no instruction at 0x0000"),
        (line("BRA `(.L_x_9)"), "leads to no label"),
    ],
)
def test_what_is_no_listing_is_refused(text: str, message: str) -> None:
    with pytest.raises(SassError, match=message):
        parse(text)


def test_what_is_no_cubin_is_refused_with_the_words_of_the_tool() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    with pytest.raises(SassError, match=r"nvdisasm refuses 12 bytes: .*truncated"):
        disassemble(b"not a cubin.")


def test_a_tool_that_does_not_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sass, "_tool", lambda: "/nowhere/nvdisasm")
    with pytest.raises(SassError, match="/nowhere/nvdisasm does not run"):
        disassemble(b"")


def test_a_tool_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("nvdisasm", 120)

    monkeypatch.setattr(sass, "_tool", lambda: "nvdisasm")
    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(SassError, match="does not run"):
        disassemble(b"")


@cache
def compiled(kernel: str, arch: int) -> Listing:
    pytest.importorskip("torch", reason="torch is not installed")
    triton = pytest.importorskip("triton", reason="triton is not installed")
    import sass_kernels
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, constants = sass_kernels.SIGNATURES[kernel]
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, kind in enumerate(signature.values())
        if kind[0] == "*"
    }
    source = ASTSource(getattr(sass_kernels, kernel), signature, constants, aligned)
    made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": 4})
    return disassemble(made.asm["cubin"])


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_loop_of_a_compiled_kernel_is_found_and_counted(arch: int) -> None:
    """A product of a thread takes two loads, however often the assembler unrolls it."""
    loops = compiled("dot", arch).loops
    assert loops
    for loop in loops:
        assert loop.inner
        assert loop.count_of("LDG") == 2 * loop.count_of("FFMA") > 0
        assert sum(loop.by_pipe().values()) == loop.count
        assert loop.by_pipe()["memory"] == loop.count_of("LDG")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_kernel_that_dequantizes_and_multiplies_has_no_unknown_instruction(arch: int) -> None:
    listing = compiled("dequantize_dot", arch)
    assert [i.text for i in listing.instructions if i.pipe == "other"] == []
    products = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA", 120: "HMMA"}[arch]
    main = max(listing.inner, key=lambda loop: loop.count_of(products))
    # 64 x 64 x 64, by 16 x 8 x 16 in each of four warps, or by 64 x 64 x 16 at once.
    assert main.count_of(products) == (32 if products == "HMMA" else 4)
    pipes = main.by_pipe()
    assert {"int", "memory", "tensor", "control"} <= pipes.keys()
    assert pipes["int"] + pipes.get("convert", 0) > main.count / 4  # the dequantizing
