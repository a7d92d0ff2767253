"""The C back end against the reference, bit for bit, on every policy of the language."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from c_formats import ALL, SHIPPED, backend_of, format_of
from fmtc.compiler.format import Format
from fmtc.compiler.packing import pack
from fmtc.compiler.reference import TensorLevel, block_scales, calibrate, decode, encode
from fmtc.compiler.view import view_of
from fmtc.runtime.c_backend import CBackend

RNG = np.random.default_rng(20260101)


def levels_of(fmt: Format) -> Iterator[TensorLevel]:
    yield TensorLevel()
    if fmt.scale.tensor == "fp32":
        yield TensorLevel(tensor_scale=0.0123)
        yield TensorLevel(tensor_scale=3e-40)
    if fmt.scale.shift != 0:
        yield TensorLevel(shift=7)
        yield TensorLevel(shift=-100)


def bits_with_one_nan(x: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(x), np.uint32(0x7FC00000), x.view(np.uint32))


def assert_encodes_alike(name: str, x: np.ndarray, level: TensorLevel) -> None:
    wanted = encode(format_of(name), x, level)
    for native in (True, False):
        found = backend_of(name, native).encode(x, level)
        assert found.keys() == wanted.keys()
        for stream, octets in wanted.items():
            differ = np.argwhere(found[stream] != octets)
            assert not differ.size, f"{stream} differs first at {differ[0]} (native={native})"


def random_rows(count: int) -> np.ndarray:
    """Normal, wide, tiny, huge, sparse, constant and zero stretches, shuffled by rows of 500."""
    kinds = [
        RNG.standard_normal(count),
        RNG.standard_normal(count) * np.exp2(RNG.uniform(-140, 120, count)),
        np.repeat(np.exp2(RNG.uniform(-149, 127, count // 100)), 100) * RNG.uniform(-1, 1, count),
        RNG.integers(-(2**12), 2**12, count) * 2.0**-149,
        RNG.uniform(-1, 1, count) * 3.4e38,
        np.where(RNG.random(count) < 0.9, -0.0, RNG.standard_normal(count)),
        np.repeat(RNG.standard_normal(count // 100), 100),
        RNG.integers(-8, 9, count) / 4,
        np.where(RNG.random(count) < 0.5, 0.0, -0.0),
    ]
    return np.concatenate(kinds).astype(np.float32).reshape(-1, 500)


@pytest.mark.parametrize("name", ALL)
def test_random_values_of_every_size_encode_to_the_references_bytes(name: str) -> None:
    fmt = format_of(name)
    count = 112_000 if name in SHIPPED else 12_000
    x = RNG.permutation(random_rows(count)).reshape(-1, 1000)  # remainders for most blocks
    assert name not in SHIPPED or x.size >= 1_000_000
    for level in [calibrate(fmt, x), *levels_of(fmt)]:
        assert_encodes_alike(name, x, level)


@pytest.mark.parametrize("name", ALL)
def test_midpoints_and_their_neighbours_encode_to_the_references_bytes(name: str) -> None:
    fmt = format_of(name)
    view = view_of(fmt)
    for level in levels_of(fmt):
        scales = scales_of(fmt, level, 300)
        for grid in view.grids:
            middles = np.array([float(m) for m in grid.midpoints])
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                points = (scales[:, None].astype(np.float64) * middles).astype(np.float32)
                above, below = (np.nextafter(points, np.float32(end)) for end in (np.inf, -np.inf))
                anchor = scales * np.float32(float(grid.positive_divisor))
            x = anchored_blocks(np.concatenate([points, above, below], axis=1), anchor, fmt.block)
            assert_encodes_alike(name, np.where(np.isfinite(x), x, np.float32(1)), level)


def scales_of(fmt: Format, level: TensorLevel, count: int) -> np.ndarray:
    """Effective scales: all of a table when it is small, else a sample."""
    view = view_of(fmt)
    if view.scale.is_fp32:
        return np.exp2(RNG.uniform(-149, 120, count)).astype(np.float32)
    words = np.array(view.scale.ranks[1:], np.uint32) << np.uint32(view.scale.magnitude_lsb)
    words = words if len(words) <= count else RNG.choice(words, count, replace=False)
    return np.abs(block_scales(view, words, level.multiplier))


def anchored_blocks(points: np.ndarray, anchor: np.ndarray, block: int) -> np.ndarray:
    """Rows of points, each block led by its anchor, which decides the scale."""
    if block == 1:
        return points
    width = min(block - 1, points.shape[1])
    padded = np.pad(points, ((0, 0), (0, -points.shape[1] % width)))
    split = padded.reshape(len(points), -1, width)
    lead = np.broadcast_to(anchor[:, None, None], (*split.shape[:2], 1))
    filler = np.zeros((*split.shape[:2], block - 1 - width), np.float32)
    return np.concatenate([lead, split, filler], axis=2).reshape(-1, block)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 5, 7, 8, 9, 15, 17, 31, 33, 100, 257, 4095, 4097])
def test_rows_of_any_length_encode_decode_and_multiply(length: int) -> None:
    for name in ("mxfp4", "po2_nf4", "sop_pair", "five_bits", "seven", "sixteen", "huge", "bytes"):
        fmt = format_of(name)
        x = RNG.standard_normal((5, length)).astype(np.float32)
        level = calibrate(fmt, x)
        assert_encodes_alike(name, x, level)
        streams = encode(fmt, x, level)
        wanted = decode(fmt, streams, length, level)
        found = backend_of(name).decode(streams, length, level)
        assert np.array_equal(found, wanted)
        vector = RNG.standard_normal(length).astype(np.float32)
        product = backend_of(name).dot(streams, length, level, vector)
        assert product.shape == (5,)
        assert np.allclose(product, wanted @ vector.astype(np.float64), atol=1e-3)


def test_no_rows_give_no_bytes() -> None:
    level = TensorLevel()
    streams = backend_of("nvfp4").encode(np.zeros((0, 16), np.float32), level)
    assert streams["codes"].shape == (0, 8)
    assert backend_of("nvfp4").decode(streams, 16, level).shape == (0, 16)
    assert backend_of("nvfp4").dot(streams, 16, level, np.ones(16, np.float32)).shape == (0,)


def every_block(fmt: Format, words: np.ndarray) -> tuple[dict[str, np.ndarray], int]:
    """Streams of one row with every code under every given word and every select index."""
    selects = 1 << fmt.select.bits if fmt.select.place == "field" else 1
    run = -(-(1 << fmt.code_bits) // fmt.block) * fmt.block
    codes = np.tile(np.arange(run, dtype=np.uint32) % (1 << fmt.code_bits), len(words) * selects)
    blocks = run // fmt.block
    fields = {
        "codes": codes,
        "scales": np.repeat(np.tile(words, selects), blocks),
        "select": np.repeat(np.arange(selects, dtype=np.uint32), len(words) * blocks),
    }
    return {s.name: pack(fields[s.name][None], s) for s in fmt.streams}, len(codes)


@pytest.mark.parametrize("name", ALL)
def test_every_code_under_every_scale_word_decodes_to_the_references_bits(name: str) -> None:
    fmt = format_of(name)
    container = fmt.scale.word.container
    words = np.arange(1 << min(container, 12), dtype=np.uint32)
    if container > 12 or fmt.block > 64:
        words = RNG.integers(0, 1 << container, 4000 if fmt.block <= 64 else 100, np.uint64)
    streams, length = every_block(fmt, words.astype(np.uint32))
    for level in levels_of(fmt):
        wanted = bits_with_one_nan(decode(fmt, streams, length, level))
        for native in (True, False):
            found = backend_of(name, native).decode(streams, length, level)
            assert np.array_equal(bits_with_one_nan(found), wanted)


@pytest.mark.parametrize("name", ALL)
def test_the_dot_product_keeps_its_stated_bound_and_does_not_depend_on_the_processor(
    name: str,
) -> None:
    fmt = format_of(name)
    x = (RNG.standard_normal((40, 777)) * np.exp2(RNG.uniform(-20, 20, (40, 1)))).astype(np.float32)
    level = calibrate(fmt, x)
    streams = encode(fmt, x, level)
    vector = (RNG.standard_normal(777) * np.exp2(RNG.uniform(-9, 9, 777))).astype(np.float32)
    found = backend_of(name).dot(streams, 777, level, vector)
    products = decode(fmt, streams, 777, level).astype(np.float64) * vector
    bound = 2.0**-22 * np.abs(products).sum(axis=1) + 2.0**-149 * (np.abs(vector).sum() + 1)
    assert (np.abs(found - products.sum(axis=1)) <= bound).all()
    portable = backend_of(name, native=False).dot(streams, 777, level, vector)
    assert np.array_equal(found, portable)


@pytest.mark.parametrize("name", [n for n in ALL if format_of(n).policies.nan == "propagate"])
def test_a_block_with_a_nan_is_stored_as_the_reference_stores_it(name: str) -> None:
    x = RNG.standard_normal((30, 1000)).astype(np.float32)
    x[RNG.random(x.shape) < 0.01] = np.nan
    x.view(np.uint32)[3, 5] = 0xFFC00001  # a negative one with a payload
    level = calibrate(format_of(name), x)
    assert_encodes_alike(name, x, level)
    streams = encode(format_of(name), x, level)
    wanted = decode(format_of(name), streams, 1000, level)
    assert np.isnan(wanted[3, 5])
    assert np.array_equal(
        bits_with_one_nan(backend_of(name).decode(streams, 1000, level)), bits_with_one_nan(wanted)
    )


def test_a_nan_that_the_format_cannot_store_is_refused() -> None:
    x = np.zeros((2, 32), np.float32)
    x[1, 31] = np.nan
    with pytest.raises(ValueError, match="no NaN to propagate"):
        backend_of("sop_pair").encode(x, TensorLevel())


def test_several_threads_give_the_bytes_of_one() -> None:
    fmt = format_of("po2_nf4")
    x = RNG.standard_normal((1031, 1024)).astype(np.float32)
    level = calibrate(fmt, x)
    one, four = CBackend(fmt, threads=1), CBackend(fmt, threads=4)
    streams = one.encode(x, level)
    parallel = four.encode(x, level)
    assert all(np.array_equal(streams[name], parallel[name]) for name in streams)
    decoded = one.decode(streams, 1024, level)
    assert np.array_equal(decoded, four.decode(streams, 1024, level))
    assert np.array_equal(one.dot(streams, 1024, level, x[0]), four.dot(streams, 1024, level, x[0]))


def test_strided_input_and_wider_streams_are_taken() -> None:
    fmt = format_of("mxfp4")
    backend = backend_of("mxfp4")
    x = RNG.standard_normal((64, 200)).astype(np.float64)
    level = TensorLevel()
    streams = backend.encode(x[::2, ::2].T.T, level)
    wanted = encode(fmt, x[::2, ::2].astype(np.float32), level)
    assert all(np.array_equal(streams[name], wanted[name]) for name in wanted)
    wider = {name: np.pad(octets, ((0, 0), (0, 3))) for name, octets in streams.items()}
    backwards = {name: octets[::-1][::-1] for name, octets in wider.items()}
    assert np.array_equal(
        backend.decode(backwards, 100, level), backend.decode(streams, 100, level)
    )


def test_decoding_writes_to_the_output_that_it_is_given_and_refuses_one_that_does_not_fit() -> None:
    backend = backend_of("mxfp4")
    level = TensorLevel()
    streams = backend.encode(RNG.standard_normal((3, 40)).astype(np.float32), level)
    out = np.full((3, 40), np.nan, np.float32)
    assert backend.decode(streams, 40, level, out) is out
    assert np.array_equal(out, backend.decode(streams, 40, level))
    read_only = out.copy()
    read_only.flags.writeable = False
    for wrong in (out[:, :39], out.astype(np.float64), np.asfortranarray(out), read_only):
        with pytest.raises(ValueError, match="not writeable contiguous float32"):
            backend.decode(streams, 40, level, wrong)


def test_streams_that_do_not_fit_are_refused_before_c_reads_them() -> None:
    backend = backend_of("mxfp4")
    level = TensorLevel()
    good = backend.encode(np.ones((3, 64), np.float32), level)
    faults = {
        "missing": {"codes": good["codes"]},
        "need 32": {**good, "codes": good["codes"][:, :31]},
        "numbers of rows": {**good, "scales": good["scales"][:2]},
        "not uint8": {**good, "scales": good["scales"].astype(np.int16)},
        r"not uint8 \[rows": {**good, "codes": good["codes"].ravel()},
    }
    for message, streams in faults.items():
        with pytest.raises(ValueError, match=message):
            backend.decode(streams, 64, level)
    with pytest.raises(ValueError, match="cannot have -1"):
        backend.decode(good, -1, level)
    with pytest.raises(ValueError, match="vector has shape"):
        backend.dot(good, 64, level, np.ones(63, np.float32))
    with pytest.raises(ValueError, match="two-dimensional"):
        backend.encode(np.ones(4, np.float32), level)
