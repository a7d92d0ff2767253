from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from types import MappingProxyType

import fmtc
import ml_dtypes
import numpy as np
import pytest
import torch
from fmtc import Format, QuantizedTensor, RefusedInput
from fmtc.compiler.pipeline import decode, encode
from fmtc.runtime import choose
from fmtc.runtime.backend import BackendUnavailable, ReferenceBackend
from representatives import ANY_SHAPE, PLAIN

NAMES = ANY_SHAPE
SHAPES = [
    (),
    (1,),
    (0,),
    (37,),
    (0, 5),
    (5, 0),
    (3, 0, 2),
    (3, 50),
    (2, 1, 3, 33),
    (1, 64),
    (7, 16),
]
NUMPY_TYPES = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16]
TORCH_TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def format_with(policies: str, scale: str = "e4m3", name: str = "t") -> Format:
    return Format.of(
        fmtc.compile_text(f"format {name} {{ block 16  grid e2m1  scale {scale}  {policies} }}")
    )


def gaussian(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def by_the_reference(fmt: Format, q: QuantizedTensor, rows: np.ndarray) -> np.ndarray:
    streams = encode(fmt, rows, q.level)
    for name, stream in streams.items():
        assert np.array_equal(stream, q.streams[name])
    return decode(fmt, streams, rows.shape[1], q.level)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_numpy_tensor_of_any_shape_goes_there_and_back(name: str, shape: tuple[int, ...]) -> None:
    fmt = fmtc.load(name)
    x = gaussian(shape)
    q = fmt.quantize(x)
    y = q.dequantize()
    assert isinstance(y, np.ndarray)
    assert (y.shape, y.dtype, q.shape) == (shape, np.float32, shape)
    if x.size:
        rows = x.reshape(-1, shape[-1] if shape else 1)
        assert same_bits(y, by_the_reference(fmt, q, rows).reshape(shape))
        assert np.abs(x - y).max() < np.abs(x).max()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TORCH_TYPES, ids=str)
def test_a_torch_tensor_comes_back_as_it_was(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    fmt = fmtc.load("po2_nf4")
    x = torch.from_numpy(gaussian(shape)).to(dtype)
    q = fmt.quantize(x)
    y = q.dequantize()
    assert isinstance(y, torch.Tensor)
    assert (tuple(y.shape), y.dtype, y.device) == (shape, dtype, x.device)
    twin = fmt.quantize(x.float().numpy())
    assert {k: v.tobytes() for k, v in q.streams.items()} == {
        k: v.tobytes() for k, v in twin.streams.items()
    }
    assert torch.equal(y, torch.from_numpy(np.asarray(twin.dequantize())).to(dtype))


@pytest.mark.parametrize("dtype", NUMPY_TYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("name", NAMES)
def test_every_float_type_is_rounded_to_fp32_first(name: str, dtype: type) -> None:
    fmt = fmtc.load(name)
    x = gaussian((5, 70), seed=3).astype(dtype)
    q = fmt.quantize(x)
    twin = fmt.quantize(x.astype(np.float32))
    y = q.dequantize()
    assert y.dtype == np.dtype(dtype)
    assert q.dtype == np.dtype(dtype).name
    assert all(np.array_equal(q.streams[s], twin.streams[s]) for s in q.streams)
    assert same_bits(y, twin.dequantize().astype(dtype))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.T,
        lambda x: x[::2, 1::3],
        lambda x: x[:, ::-1],
        lambda x: np.broadcast_to(x[:1], (4, x.shape[1])),
        np.asfortranarray,
        lambda x: x.astype(">f4"),
        lambda x: x[3],
    ],
    ids=["transposed", "strided", "reversed", "broadcast", "fortran", "big_endian", "row"],
)
def test_the_memory_layout_does_not_matter(view: object) -> None:
    fmt = fmtc.load("nvfp4")
    x = view(gaussian((24, 40)))  # type: ignore[operator]
    straight = np.array(x, np.float32, order="C")
    assert fmt.quantize(x).streams["codes"].tobytes() == (
        fmt.quantize(straight).streams["codes"].tobytes()
    )
    assert np.array_equal(fmt.quantize(x).dequantize(), fmt.quantize(straight).dequantize())


def test_torch_views_and_parameters_are_taken() -> None:
    fmt = fmtc.load("mxfp4")
    x = torch.from_numpy(gaussian((24, 64)))
    parameter = torch.nn.Parameter(x)
    assert torch.equal(fmt.quantize(parameter).dequantize(), fmt.quantize(x).dequantize())
    assert not fmt.quantize(parameter).dequantize().requires_grad
    for dtype in TORCH_TYPES:
        negated = torch._neg_view(x.to(dtype))
        assert torch.equal(
            fmt.quantize(negated).dequantize(), fmt.quantize(-x.to(dtype)).dequantize()
        )
    turned = fmt.quantize(x.t()).dequantize()
    assert torch.equal(turned, fmt.quantize(x.t().contiguous()).dequantize())


@pytest.mark.parametrize("name", NAMES)
def test_quantizing_leaves_the_input_as_it_was(name: str) -> None:
    x = gaussian((3, 50))
    x[0, :3] = [0.0, -0.0, 1e-42]
    before = x.tobytes()
    q = fmtc.load(name).quantize(x)
    q.dequantize()[...] = 7
    assert x.tobytes() == before
    assert np.array_equal(q.dequantize(), q.dequantize())


@pytest.mark.parametrize("name", [*PLAIN, "int4_asym_g128"])
def test_a_remainder_block_is_a_block_of_its_own(name: str) -> None:
    fmt = fmtc.load(name)
    long = gaussian((2, 2 * fmt.block + 5))
    long[:, -5:] *= 0.01
    q = fmt.quantize(long)
    level = q.level
    tail = encode(fmt, long[:, -5:], level)
    decoded = decode(fmt, tail, 5, level)
    assert same_bits(np.ascontiguousarray(q.dequantize()[:, -5:]), decoded)


@pytest.mark.parametrize("name", NAMES)
def test_zeros_and_subnormals_stay_what_they_are(name: str) -> None:
    fmt = fmtc.load(name)
    assert not fmt.quantize(np.zeros((2, 70), np.float32)).dequantize().any()
    tiny = np.full((1, 64), 2.0**-149, np.float32)
    tiny[0, ::2] = -(2.0**-140)
    y = fmt.quantize(tiny).dequantize()
    assert np.isfinite(y).all()
    assert np.abs(y).max() <= 2.0**-126


@pytest.mark.parametrize("name", NAMES)
def test_the_largest_numbers_do_not_become_nan(name: str) -> None:
    x = np.full((1, 64), np.finfo(np.float32).max, np.float32)
    x[0, ::3] = 0
    assert not np.isnan(fmtc.load(name).quantize(x).dequantize()).any()


def test_a_negative_zero_is_kept_or_dropped_as_the_policy_says() -> None:
    x = np.full(16, -0.0, np.float32)
    x[0] = 6
    kept = format_with("negative_zero keep").quantize(x).dequantize()
    dropped = format_with("negative_zero drop").quantize(x).dequantize()
    assert np.signbit(kept[1:]).all()
    assert not np.signbit(dropped[1:]).any()
    assert not kept[1:].any()


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(
    ("place", "shown"),
    [((0, 0, 0), "[0, 0, 0]"), ((1, 0, 36), "[1, 0, 36]")],
    ids=["first", "last"],
)
@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "a NaN"), (np.inf, "an infinity"), (-np.inf, "an infinity")]
)
def test_a_refused_value_is_named_with_its_place(
    value: float, words: str, place: tuple[int, ...], shown: str, backend: str
) -> None:
    x = gaussian((2, 1, 37))
    x[place] = value
    for tensor in (x, torch.from_numpy(x), x.astype(np.float16)):
        with pytest.raises(RefusedInput) as caught:
            format_with("nan error  inf error").quantize(tensor, backend=backend)
        assert f"{words} at {shown}" in str(caught.value)
        assert "'t'" in str(caught.value)


def test_the_place_of_a_refused_scalar_and_vector_is_named() -> None:
    fmt = format_with("nan error")
    with pytest.raises(RefusedInput, match=r"a NaN at \[\],"):
        fmt.quantize(np.array(np.nan, np.float32))
    with pytest.raises(RefusedInput, match=r"a NaN at \[2\],"):
        fmt.quantize(np.array([0, 1, np.nan], np.float32))


def test_a_refused_value_far_into_a_large_tensor_is_found() -> None:
    x = np.zeros((3, 200_000), np.float32)
    x[2, 199_999] = np.inf
    with pytest.raises(RefusedInput, match=r"\[2, 199999\]"):
        format_with("").quantize(x)


def test_the_policy_that_a_refusal_proposes_works() -> None:
    x = gaussian((2, 40))
    x[1, 3], x[0, 0] = np.nan, np.inf
    fmt = format_with("nan zero  inf saturate")
    y = fmt.quantize(x).dequantize()
    clean = x.copy()
    clean[1, 3], clean[0, 0] = 0, np.finfo(np.float32).max
    assert same_bits(y, fmt.quantize(clean).dequantize())
    assert np.isnan(x[1, 3])
    assert np.isinf(x[0, 0])


def test_a_propagated_nan_makes_its_block_nan_and_no_other() -> None:
    x = gaussian((2, 40))
    x[1, 20] = np.nan
    fmt = format_with("nan propagate")
    y = fmt.quantize(x).dequantize()
    assert np.isnan(y[1, 16:32]).all()
    y[1, 16:32] = 0
    assert np.isfinite(y).all()


def test_infinity_beside_a_propagated_nan_saturates() -> None:
    x = gaussian((1, 48))
    x[0, 0], x[0, 1], x[0, 17], x[0, 40] = np.inf, 1, np.nan, -np.inf
    y = format_with("nan propagate  inf saturate").quantize(x).dequantize()
    assert np.isnan(y[0, 16:32]).all()
    assert np.isfinite(y[0, :16]).all()
    assert y[0, 0] > 0 > y[0, 40]


def test_numbers_past_fp32_count_as_infinite() -> None:
    x = np.array([1.0, 1e39, -1e300], np.float64)
    with pytest.raises(RefusedInput, match=r"\[1\] \(past 3\.4e38 in fp32\)"):
        format_with("").quantize(x)
    y = format_with("inf saturate").quantize(x).dequantize()
    assert y[1] == -y[2] > 1e3
    small = format_with("").quantize(np.array([1e-60, -1e-300], np.float64)).dequantize()
    assert not small.any()


@pytest.mark.filterwarnings("error")
def test_results_past_a_narrow_type_become_infinite_without_a_warning() -> None:
    fmt = format_with("", scale="fp32")
    for dtype in (np.float16, ml_dtypes.bfloat16):
        top = float(ml_dtypes.finfo(dtype).max)
        x = np.array([top, -top, 0], dtype)
        y = fmt.quantize(x).dequantize()
        assert y.dtype == x.dtype
        assert not np.isnan(y).any()


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([1.0, 2.0], "not list"),
        (None, "not NoneType"),
        (1.5, "not float"),
        ("nf4", "not str"),
        (np.arange(4), "int64"),
        (np.array([True]), "bool"),
        (np.array([1j]), "complex128"),
        (np.array([None]), "object"),
        (np.zeros(4, ml_dtypes.float8_e4m3fn), "float8_e4m3fn"),
        (torch.arange(4), "int64"),
        (torch.zeros(4, dtype=torch.complex64), "complex64"),
        (torch.zeros(4, dtype=torch.float8_e4m3fn), "float8_e4m3fn"),
    ],
    ids=str,
)
def test_what_is_no_float_tensor_is_a_type_error(x: object, words: str) -> None:
    with pytest.raises(TypeError) as caught:
        fmtc.load("nf4").quantize(x)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("shape", [(3, 50), (0, 5), (5, 0), ()], ids=str)
def test_nbytes_counts_every_stored_byte(name: str, shape: tuple[int, ...]) -> None:
    fmt = fmtc.load(name)
    q = fmt.quantize(gaussian(shape))
    rows, length = int(np.prod(shape[:-1])), shape[-1] if shape else 1
    blocks = -(-length // fmt.block)
    codes = rows * -(-length * fmt.code_bits // 8)
    scales = rows * -(-blocks * fmt.scale.word.container // 8)
    second_level = 4 * (fmt.scale.tensor == "fp32" or fmt.scale.shift is None)
    assert q.nbytes == codes + scales + second_level
    count = rows * length
    assert q.bpw == (8 * q.nbytes / count if count else pytest.approx(np.nan, nan_ok=True))


@pytest.mark.parametrize("name", NAMES)
def test_bpw_of_a_long_row_is_the_formats(name: str) -> None:
    fmt = fmtc.load(name)
    q = fmt.quantize(gaussian((128, 1 << 13)))
    assert q.nbytes >= sum(stream.nbytes for stream in q.streams.values())
    if any(side.kind == "opq" for side in fmt.sides):
        assert q.bpw == pytest.approx(fmt.bpw, abs=1e-2)
    else:
        assert q.bpw == pytest.approx(fmt.bpw, abs=4e-3)
        assert q.bpw >= fmt.bpw


@pytest.mark.parametrize("name", NAMES)
def test_the_decode_table_is_the_grids(name: str) -> None:
    fmt = fmtc.load(name)
    table = fmt.decode_table()
    assert table.dtype == np.float32
    assert table.shape == (1 << fmt.select.bits, 1 << fmt.code_bits)
    for row, grid in zip(table, fmt.grids, strict=True):
        for code, value in enumerate(grid.values):
            assert np.isnan(row[code]) if value is None else float(row[code]) == float(value)
            if code == grid.negative_zero:
                assert np.signbit(row[code])


def test_a_decoded_tensor_is_the_table_times_the_scale() -> None:
    fmt = fmtc.load("nf4")
    x = gaussian((1, 64))
    q = fmt.quantize(x)
    packed = q.streams["codes"][0]
    codes = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)
    scale = q.streams["scales"][0].view("<f4")[0]
    assert scale == np.abs(x).max()
    assert same_bits(q.dequantize()[0], fmt.decode_table()[0, codes] * scale)


@pytest.mark.parametrize("name", NAMES)
def test_a_format_can_be_copied_and_pickled(name: str) -> None:
    fmt = fmtc.load(name)
    fmt.quantize(gaussian((2, 40)))
    for twin in (pickle.loads(pickle.dumps(fmt)), copy.copy(fmt), copy.deepcopy(fmt)):
        assert twin == fmt
        assert hash(twin) == hash(fmt)
        assert twin.content_hash == fmt.content_hash
        assert (twin.title, twin.source, twin.grids) == (fmt.title, fmt.source, fmt.grids)
        assert np.array_equal(twin.decode_table(), fmt.decode_table(), equal_nan=True)


def test_formats_are_equal_when_their_bytes_mean_the_same() -> None:
    one = fmtc.compile_text('format a "One" { cite "X"  block 16  grid e2m1  scale e4m3 }')
    two = fmtc.compile_text("# two\nformat a { scale e4m3 { rule absmax } grid e2m1 block 2^4 }")
    other = fmtc.compile_text("format a { block 16  grid e2m1  scale e4m3  tie up }")
    assert one == two == Format.of(one)
    assert hash(one) == hash(two)
    assert one != other
    assert one != "a"
    assert len({one, two, other, Format.of(two)}) == 2


def test_the_hash_of_a_format_is_the_same_in_every_process() -> None:
    code = f"import fmtc; print(*(fmtc.load(n).content_hash for n in {NAMES}))"
    hashes = set()
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(fmtc.__file__).parent.parent,
        )
        hashes.add(done.stdout)
    assert hashes == {" ".join(fmtc.load(n).content_hash for n in NAMES) + "\n"}


def test_a_format_cannot_be_changed() -> None:
    fmt = fmtc.load("nf4")
    with pytest.raises(AttributeError):
        fmt.block = 32  # type: ignore[misc]
    q = fmt.quantize(gaussian((1, 64)))
    with pytest.raises(ValueError, match="read-only"):
        q.streams["codes"][0, 0] = 0
    with pytest.raises(TypeError):
        q.streams["codes"] = q.streams["scales"]  # type: ignore[index]


@pytest.mark.parametrize("name", NAMES)
def test_a_packed_tensor_can_be_copied_and_pickled(name: str) -> None:
    q = fmtc.load(name).quantize(gaussian((3, 40)))
    for twin in (pickle.loads(pickle.dumps(q)), copy.copy(q), copy.deepcopy(q)):
        assert same_bits(twin.dequantize(), q.dequantize())
        assert (twin.format, twin.shape, twin.level) == (q.format, q.shape, q.level)
        assert isinstance(twin.streams, MappingProxyType)
        assert not twin.streams["codes"].flags.writeable


def test_an_unknown_back_end_is_refused_with_the_known_ones() -> None:
    fmt = fmtc.load("nf4")
    with pytest.raises(
        ValueError, match=r"no back end 'nosuch'.*auto, reference, c, numba, triton"
    ):
        fmt.quantize(gaussian((1, 64)), backend="nosuch")
    with pytest.raises(ValueError, match="no back end 'nosuch'"):
        fmt.quantize(gaussian((1, 64))).dequantize(backend="nosuch")


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fmt: object) -> None:
        raise BackendUnavailable("no C compiler was found: install gcc or clang")

    monkeypatch.setitem(choose.BACKENDS, "c", refuse)
    monkeypatch.setitem(choose.BACKENDS, "numba", refuse)
    monkeypatch.setattr(choose, "_noticed", set())
    choose._make.cache_clear()
    yield
    choose._make.cache_clear()


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_one_notice_is_given_and_the_bytes_are_the_same() -> None:
    fmt = fmtc.load("po2_nf4")
    x = gaussian((3, 50))
    with pytest.warns(RuntimeWarning, match="slower NumPy reference: no C compiler") as caught:
        q = fmt.quantize(x)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fmt.quantize(x)
        q.dequantize()
        fmtc.load("nf4").quantize(x)
    assert np.array_equal(q.dequantize(), fmt.quantize(x, backend="reference").dequantize())


@pytest.mark.usefixtures("no_compiler")
def test_a_back_end_asked_for_by_name_does_not_fall_back() -> None:
    with pytest.raises(BackendUnavailable, match="install gcc or clang"):
        fmtc.load("nf4").quantize(gaussian((1, 64)), backend="c")


def test_auto_and_the_reference_give_the_same_bytes() -> None:
    x = gaussian((4, 300))
    for name in NAMES:
        fmt = fmtc.load(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            fast = fmt.quantize(x)
        slow = fmt.quantize(x, backend=ReferenceBackend.name)
        assert fast.level == slow.level
        assert {k: v.tobytes() for k, v in fast.streams.items()} == {
            k: v.tobytes() for k, v in slow.streams.items()
        }
