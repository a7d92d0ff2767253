"""The GPU bench on a machine without a GPU: peers and hints."""

from __future__ import annotations

import sys
import types

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

from fmtc.bench.gpu import (  # noqa: E402
    hints,
    ours,
)
from fmtc.bench.gpu.clock import InventedClock  # noqa: E402
from fmtc.bench.gpu.peers import PEERS  # noqa: E402
from fmtc.bench.gpu.peers import base as peer_base  # noqa: E402
from fmtc.bench.gpu.results import Roofs  # noqa: E402
from fmtc.runtime.sass import parse  # noqa: E402
from gpu_bench_stub import PRODUCT, TINY, stub  # noqa: E402


@pytest.fixture(autouse=True)
def no_autotuning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMTC_TUNE", "off")


@pytest.fixture
def product(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = stub()
    monkeypatch.setitem(sys.modules, PRODUCT, module)
    return module


# Peers


class Doubtful(peer_base.Peer):
    name, package, variants = "doubtful", "doubtful", ("good", "wrong", "broken", "uncopied")

    def pack(self, variant: str, weight: torch.Tensor) -> peer_base.PeerWeight:
        if variant == "broken":
            raise ImportError("no module named 'doubtful'")
        factor = 2.0 if variant == "wrong" else 1.0
        kept: object = weight if variant != "uncopied" else (weight, (i for i in ()))

        def product(x: torch.Tensor, packed: object) -> torch.Tensor:
            dense = packed[0] if isinstance(packed, tuple) else packed
            if len(x) == 7:
                raise RuntimeError("seven rows do not fit")
            return factor * (x.float() @ dense.float().T)

        return peer_base.PeerWeight(product, kept, weight.numel() // 2, "noted")


def test_a_peer_is_held_against_the_dense_product_before_it_is_timed() -> None:
    found = list(peer_base.measure(Doubtful(), (64, 256), (1, 7), TINY, InventedClock()))
    by = {(r.contender.split()[1], r.m): r for r in found}
    assert by["good", 1].seconds
    assert by["good", 1].note == "noted; invented"
    assert by["good", 1].octets == 64 * 128
    assert by["good", 7].skipped == "RuntimeError: seven rows do not fit"
    assert by["wrong", 1].skipped == "wrong: off by 1 of the dense product"
    assert by["broken", 0].skipped == "ImportError: no module named 'doubtful'"
    assert "warm, for it does not copy: TypeError" in by["uncopied", 1].note


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_peer_says_what_it_lacks_here(peer: peer_base.Peer) -> None:
    found = list(peer_base.measure(peer, (64, 256), (1,), TINY, InventedClock()))
    assert {r.contender for r in found} == {f"{peer.name} {v}" for v in peer.variants}
    for result in found:
        assert result.skipped or peer.name == "bitsandbytes"


def test_codes_for_peers_are_ours() -> None:
    from fmtc.bench.gpu.peers.gemlite import integers, microscaled

    weight = torch.from_numpy(ours.random_rows((32, 256))).to(torch.float16)
    codes, scales, level = microscaled("nvfp4", weight)
    assert codes.shape == (32, 128)
    assert scales.shape == (32, 16)
    low_first = torch.stack((codes & 15, codes >> 4), dim=2).reshape(32, 256)
    grid = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    values = grid[(low_first & 7).long()] * torch.where(low_first > 7, -1, 1)
    decoded = (
        values.reshape(32, 16, 16) * scales.view(torch.float8_e4m3fn).float()[..., None] * level
    )
    assert ((decoded.reshape(32, 256) - weight).norm() / weight.norm()) < 0.11
    codes, scales, zeros = integers(weight)
    assert codes.max() <= 15
    groups = (codes.reshape(32, 2, 128).float() - zeros.float()[..., None]) * scales.float()[
        ..., None
    ]
    assert ((groups.reshape(32, 256) - weight).norm() / weight.norm()) < 0.15


def test_the_product_of_triton_itself_compiles_for_an_h200() -> None:
    import triton
    from fmtc.bench.gpu.kernels import kernel, scaled
    from fmtc.bench.gpu.peers.scaled import TILES
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    block_m, block_n, block_k, warps, stages = TILES[16][0]
    pointers = {"x_ptr": "*fp16", "codes_ptr": "*u8", "scales_ptr": "*u8", "y_ptr": "*fp16"}
    constants = {"name": "fp16", "block_m": block_m, "block_n": block_n, "block_k": block_k}
    source = ASTSource(
        fn=kernel(scaled, False),
        signature={
            **pointers,
            "m": "i32",
            "n": "i32",
            "k": "i32",
            **dict.fromkeys(constants, "constexpr"),
        },
        constexprs=constants,
        attrs={(i,): [["tt.divisibility", 16]] for i in (0, 1, 2, 3, 5, 6)},
    )
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": warps, "num_stages": stages},
    )
    assert len(compiled.asm["cubin"]) > 1000


# Hints

LOOP = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   LDG.E.128.CONSTANT R8, desc[UR4][R6.64] ;
        /*0020*/                   LDG.E.U16 R9, desc[UR4][R6.64+0x10] ;
        /*0030*/                   PRMT R13, R8, 0x7654, R9 ;
        /*0040*/                   PRMT R14, R8, 0x7654, R9 ;
        /*0050*/                   PRMT R15, R8, 0x7654, R9 ;
        /*0060*/                   LOP3.LUT R16, R8, 0xf, RZ, 0xc0, !PT ;
        /*0070*/                   HFMA2 R20, R13, R14, R20 ;
        /*0080*/                   HFMA2 R21, R15, R16, R21 ;
        /*0090*/                   STG.E.64 desc[UR4][R2.64], R20 ;
        /*00a0*/               @P0 BRA `(.L_x_0) ;
        /*00b0*/                   EXIT ;
"""


def test_a_hint_counts_instructions_for_each_element_and_names_the_bound() -> None:
    listing = parse(LOOP)
    (loop,) = listing.inner
    assert hints.moved(loop, "LDG") == 18
    assert hints.moved(loop, "STG") == 8
    assert hints.products(loop) == 4
    text = hints.describe(loop, 4, 4.38, "weight")
    assert text.startswith("2.50 instructions a weight (int 1.00, memory 0.75")
    assert text.endswith("bound by memory: 100% of the roof (budget 4.38)")
    assert hints.describe(loop, 4, 1.5, "weight").endswith(": 50% of the roof (budget 1.50)")
    assert hints.describe(loop, 0, None, None).startswith("10 instructions a pass (int 4,")
    assert "2.50 instructions a value" in hints.describe(loop, 4, None, None)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("FFMA R1, R2, R3, R1", 1),
        ("HMMA.16816.F32 R4, R8, R10, R4", 64),
        ("HMMA.1688.F32 R4, R8, R10, R4", 32),
        ("HGMMA.64x64x16.F32 R24, gdesc[UR8], R24, gsb0", 512),
        ("HGMMA.F32 R24, gdesc[UR8], R24, gsb0", 0),
    ],
)
def test_multiplications_of_a_thread(text: str, count: int) -> None:
    assert hints.products(parse(f"        /*0000*/                   {text} ;\n")) == count


def test_a_tensor_core_multiplies_the_rows_of_its_tile() -> None:
    code = parse("        /*0000*/                   HMMA.16816.F32 R4, R8, R10, R4 ;\n")
    assert hints.weights(code, 1, {}) == hints.weights(code, 16, {}) == 4
    assert hints.weights(code, 64, {}) == 1
    assert hints.weights(code, 64, {"block_m": 32}) == 2
    assert hints.weights(parse(LOOP), 2, {}) == 2


class FakeKernel:
    def __init__(self, cubin: bytes | None) -> None:
        self.asm = {} if cubin is None else {"cubin": cubin}
        self.n_regs, self.n_spills = 96, 2


def test_a_hint_reads_what_was_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.jit import JITFunction

    monkeypatch.setattr(JITFunction, "run", lambda _, cubin, **__: FakeKernel(cubin))
    monkeypatch.setattr(hints, "disassemble", lambda cubin: parse(LOOP * len(cubin)))
    function = JITFunction.__new__(JITFunction)
    run = JITFunction.run

    def call() -> None:
        function.run(b"1", grid=(1,), warmup=False)

    text = hints.hint_of_product(call, 1, 0.5625, Roofs(4500, 4300), 132, 1.98e9)
    assert "2.50 instructions a weight" in text
    assert "(budget 4.18)" in text
    assert text.endswith("; 96 registers, 2 spills")
    assert hints.hint_of_coding(call, "STG", 2).startswith("2.50 instructions a value")
    assert JITFunction.run is run
    assert hints.hint_of_coding(lambda: None, "STG", 2) == "no machine code to read"
    assert hints.hint_of_coding(lambda: function.run(None), "STG", 2) == "no machine code to read"

    def refuse(_: bytes) -> None:
        raise hints.SassError("no nvdisasm")

    monkeypatch.setattr(hints, "disassemble", refuse)
    assert hints.hint_of_coding(call, "STG", 2) == "machine code not read: no nvdisasm"


# Instructions


def test_the_table_of_instructions_is_made_on_any_machine() -> None:
    from fmtc.bench.gpu.instructions import report, rows

    (row,) = rows(90, [("mxfp4", ["e4m3"])])
    name, bpw, method, decode, gemv, integer, ceiling, gemm, _ = row
    assert (name, bpw, method, ceiling) == ("mxfp4", "4.25", "e4m3", "100%")
    assert float(decode) < float(integer) + 1 < float(gemv) < float(gemm)
    assert f"| {' | '.join(row)} |" in report(90, [row])
