"""Values beside the codes on a device: what they are, and the kernel that adds them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from fmtc.compiler import pipeline
from fmtc.compiler.format import Format
from fmtc.compiler.kernel import dense_format
from fmtc.compiler.physical import NATURAL
from fmtc.compiler.reference import calibrate
from fmtc.compiler.resolve import compile_text
from fmtc.formats import load
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

from fmtc.runtime.gpu import sparse as module  # noqa: E402
from fmtc.runtime.gpu.sparse import LANES, ROWS, WARPS, Sparse, add_sparse  # noqa: E402
from fmtc.runtime.gpu.weights import to_device_weights  # noqa: E402
from fmtc.runtime.sass import disassemble  # noqa: E402

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

#: Half the distance of neighbours at 1: a rounding to binary32 errs by this share at most.
U = 2.0**-24

#: Beside the shipped one: sides of given scales with zero points, and in a record.
FORMATS = {
    "nf4_dd4_opq_wr": "",
    "points": """block 32  grid u = int 3 { range unsigned }  scale fp16 { rule range }
        zero point  side opq { quantile 0.5 }  side wr { fraction 0.02 }""",
    "records": """block 16  grid i = int 5  scale e4m3  record 32 { scales, codes }
        side wr { fraction 0.05 }""",
}


@cache
def format_of(name: str) -> Format:
    text = FORMATS[name]
    return compile_text(f'format {name} "" {{ {text} }}') if text else load(name)


@cache
def weight(name: str, rows: int = 37, length: int = 640) -> tuple[F32, F32, Sparse]:
    """Rows with heavy tails: decoded without sides, decoded with them, and what stands beside."""
    fmt = format_of(name)
    x = np.random.default_rng(rows).standard_t(3, (rows, length)).astype(np.float32)
    x[3] = 0  # nothing stands beside
    level = calibrate(fmt, x)
    streams = pipeline.encode(fmt, x, level)
    full = pipeline.decode(fmt, streams, length, level)
    made = to_device_weights(fmt, streams, x.shape, level, NATURAL, "cpu")
    planar = made.to_canonical() | {k: v for k, v in made.blocks.items() if not made.given}
    if fmt.record is not None:
        dense = replace(dense_format(fmt), record=fmt.record)
    else:
        dense = dense_format(fmt)
    arrays = {key: octets.numpy() for key, octets in planar.items()}
    assert made.sparse is not None
    return pipeline.decode(dense, arrays, length, level), full, made.sparse


def scattered(sparse: Sparse, rows: int, length: int) -> F64:
    """The deltas as a matrix."""
    matrix = np.zeros((rows, length))
    starts = sparse.starts.numpy()
    for row in range(rows):
        part = slice(starts[row], starts[row + 1])
        columns = sparse.columns.numpy()[part]
        assert (np.diff(columns) > 0).all()
        matrix[row, columns] = sparse.deltas.numpy()[part]
    return matrix


def ragged(rows: int, length: int, most: int, seed: int = 0) -> Sparse:
    """Rows of 0 to ``most`` values, unevenly."""
    rng = np.random.default_rng(seed)
    counts = (rng.random(rows) ** 4 * (most + 1)).astype(int)
    columns = [np.sort(rng.permutation(length)[:count]) for count in counts]
    return Sparse(
        torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)),
        torch.from_numpy(np.concatenate(columns).astype(np.int32)),
        torch.from_numpy(rng.standard_normal(counts.sum()).astype(np.float32)),
        length,
    )


@pytest.mark.parametrize("name", FORMATS)
def test_a_delta_is_what_the_sides_make_of_an_element(name: str) -> None:
    dense, full, sparse = weight(name)
    rows, length = dense.shape
    assert len(sparse.deltas) > 20
    assert (sparse.starts.dtype, sparse.columns.dtype) == (torch.int32, torch.int32)
    assert (sparse.rows, sparse.length) == (rows, length)
    deltas = scattered(sparse, rows, length)
    exact = full.astype(np.float64) - dense
    assert (np.abs(deltas - exact) <= U * np.abs(exact)).all()
    assert np.count_nonzero(exact) <= len(sparse.deltas)


def test_strips_of_rows_change_no_delta(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, whole = weight("nf4_dd4_opq_wr")
    monkeypatch.setattr(module, "STRIP", 3 * 640)
    _, _, strips = weight.__wrapped__("nf4_dd4_opq_wr")
    for name in ("starts", "columns", "deltas"):
        assert torch.equal(getattr(whole, name), getattr(strips, name))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", FORMATS)
def test_the_dense_product_and_the_sparse_one_are_the_whole(name: str, dtype: torch.dtype) -> None:
    """Within the roundings that are made, u = 2^-24 of each.

    The dense product rounds once, the sum with it once; of a row's n terms each is rounded as a
    delta, as a product and in at most n sums.
    """
    dense, full, sparse = weight(name)
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((3, dense.shape[1]))).to(dtype)
    wide = x.double().numpy()
    y = torch.from_numpy((wide @ dense.T.astype(np.float64)).astype(np.float32))
    before = np.abs(y.numpy().astype(np.float64))
    add_sparse(y, x, sparse)
    expected = wide @ full.T.astype(np.float64)
    counts = np.diff(sparse.starts.numpy())
    terms = np.abs(wide) @ np.abs(scattered(sparse, *dense.shape)).T
    bound = 1.001 * U * (before + np.abs(expected) + (counts + 3) * terms)
    assert (np.abs(y.numpy() - expected) <= bound).all()
    assert (np.abs(y.numpy() - expected) < 0.01 * np.abs(terms).max()).all()


@pytest.mark.parametrize(("rows", "most"), [(1, 5), (16, 40), (1025, 3), (30, 300)])
def test_rows_of_any_number_of_values_are_added(rows: int, most: int) -> None:
    sparse = ragged(rows, 500, most)
    matrix = scattered(sparse, rows, 500)
    x = torch.randn(2, 500, generator=torch.Generator().manual_seed(rows))
    y = torch.full((2, rows), 0.5)
    add_sparse(y, x, sparse)
    expected = x.double().numpy() @ matrix.T + 0.5
    bound = (
        1.001 * U * (1 + np.abs(expected) + (most + 3) * (x.abs().double().numpy() @ abs(matrix).T))
    )
    assert (np.abs(y.numpy() - expected) <= bound).all()


def test_the_same_sum_comes_out_again_whatever_stands_around_it() -> None:
    sparse = ragged(20, 300, 90)
    x = torch.randn(4, 300)
    y = torch.zeros(4, 20)
    add_sparse(y, x, sparse)
    alone = torch.zeros(1, 20)
    add_sparse(alone, x[2:3], sparse)
    assert torch.equal(alone[0], y[2])


def test_tensors_with_gaps_between_their_rows_are_taken() -> None:
    sparse = ragged(20, 300, 50)
    x, y = torch.randn(4, 400), torch.zeros(4, 32)
    add_sparse(y[:, 4:24], x[:, 100:], sparse)
    packed = torch.zeros(4, 20)
    add_sparse(packed, x[:, 100:].contiguous(), sparse)
    assert torch.equal(y[:, 4:24], packed)
    assert not y[:, :4].any()
    assert not y[:, 24:].any()


def test_where_nothing_stands_beside_nothing_changes() -> None:
    none = Sparse(
        torch.zeros(9, dtype=torch.int32), torch.zeros(0, dtype=torch.int32), torch.zeros(0), 40
    )
    y = torch.ones(2, 8)
    add_sparse(y, torch.ones(2, 40), none)
    assert torch.equal(y, torch.ones(2, 8))
    add_sparse(torch.zeros(0, 20), torch.zeros(0, 300), ragged(20, 300, 50))


def test_what_does_not_fit_is_refused() -> None:
    sparse = ragged(20, 300, 50)
    y, x = torch.zeros(4, 20), torch.zeros(4, 300)
    for other_y, other_x in (
        (torch.zeros(4, 21), x),
        (y, torch.zeros(4, 299)),
        (y, torch.zeros(3, 300)),
        (y.double(), x),
        (y, x.int()),
        (y[0], x[0]),
    ):
        with pytest.raises(ValueError, match="a product of"):
            add_sparse(other_y, other_x, sparse)
    with pytest.raises(ValueError, match="side by side"):
        add_sparse(torch.zeros(20, 4).T, x, sparse)
    with pytest.raises(ValueError, match="one device"):
        add_sparse(y, x.to("meta"), sparse)


@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize("floats", ["fp16", "bf16", "fp32"])
def test_the_kernel_compiles_without_spills_and_without_atomics(arch: int, floats: str) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = ["*fp32", f"*{floats}", "*i32", "*i32", "*fp32", "i32", "i32", "i32"]
    kernel = module.kernel(interpreted=False)
    constants = {"rows": ROWS, "lanes": LANES}
    signature = dict(zip(kernel.arg_names, [*types, *["constexpr"] * 2], strict=True))
    source = ASTSource(kernel, signature=signature, constexprs=constants)
    options = {"num_warps": WARPS, "enable_fp_fusion": True}
    made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    listing = disassemble(made.asm["cubin"])
    assert listing.count_of("FFMA", "FFMA2") > 0
    assert listing.count_of("LDL", "STL", "ATOM", "ATOMG", "RED", "REDG") == 0
    assert made.metadata.shared <= 16 * 1024
