"""The C back end against the reference, bit for bit, on every policy and every target."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from c_formats import (
    ALL,
    DTYPES,
    SHIPPED,
    backend_of,
    backends_of,
    format_of,
    on_targets,
    same_bits,
    targets,
)
from fmtc.codegen.c.targets import TARGETS
from fmtc.compiler.format import Format
from fmtc.compiler.narrow import narrow
from fmtc.compiler.packing import pack
from fmtc.compiler.reference import TensorLevel, block_scales, calibrate, decode, encode
from fmtc.compiler.view import view_of
from fmtc.runtime.backend import BackendUnavailable
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


def assert_encodes_alike(name: str, which: str, x: np.ndarray, level: TensorLevel) -> None:
    wanted = encode(format_of(name), x, level)
    for backend in backends_of(name, which):
        found = backend.encode(x, level)
        assert found.keys() == wanted.keys()
        for stream, octets in wanted.items():
            differ = np.argwhere(found[stream] != octets)
            assert not differ.size, f"{backend.target.name}: {stream} differs at {differ[0]}"


def assert_decodes_alike(
    name: str, which: str, streams: dict[str, np.ndarray], length: int, level: TensorLevel
) -> None:
    values = decode(format_of(name), streams, length, level)
    for dtype in DTYPES:
        wanted = narrow(values, dtype)
        for backend in backends_of(name, which):
            found = backend.decode(streams, length, level, dtype)
            assert same_bits(found, wanted), (backend.target.name, dtype)


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


@on_targets(ALL)
def test_random_values_of_every_size_encode_to_the_references_bytes(name: str, which: str) -> None:
    fmt = format_of(name)
    count = 112_000 if name in SHIPPED else 12_000
    x = RNG.permutation(random_rows(count)).reshape(-1, 1000)  # remainders for most blocks
    assert name not in SHIPPED or x.size >= 1_000_000
    for level in [calibrate(fmt, x), *levels_of(fmt)]:
        assert_encodes_alike(name, which, x, level)


@on_targets(ALL)
def test_midpoints_and_their_neighbours_encode_to_the_references_bytes(
    name: str, which: str
) -> None:
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
            x = np.where(np.isfinite(x), x, np.float32(1))
            assert_encodes_alike(name, which, x, level)


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
def test_rows_of_any_length_encode_and_decode(length: int) -> None:
    for name in ("mxfp4", "po2_nf4", "sop_pair", "five_bits", "seven", "bytes", "seven_bits"):
        fmt = format_of(name)
        x = RNG.standard_normal((5, length)).astype(np.float32)
        level = calibrate(fmt, x)
        assert_encodes_alike(name, "all", x, level)
        assert_decodes_alike(name, "all", encode(fmt, x, level), length, level)


def test_no_rows_give_no_bytes() -> None:
    level = TensorLevel()
    streams = backend_of("nvfp4").encode(np.zeros((0, 16), np.float32), level)
    assert streams["codes"].shape == (0, 8)
    assert backend_of("nvfp4").decode(streams, 16, level).shape == (0, 16)


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


@on_targets(ALL)
def test_every_code_under_every_scale_word_decodes_to_the_references_bits(
    name: str, which: str
) -> None:
    fmt = format_of(name)
    container = fmt.scale.word.container
    words = np.arange(1 << min(container, 12), dtype=np.uint32)
    if container > 12 or fmt.block > 64:
        words = RNG.integers(0, 1 << container, 4000 if fmt.block <= 64 else 100, np.uint64)
    streams, length = every_block(fmt, words.astype(np.uint32))
    for level in levels_of(fmt):
        assert_decodes_alike(name, which, streams, length, level)


@on_targets([n for n in ALL if format_of(n).policies.nan == "propagate"])
def test_a_block_with_a_nan_is_stored_as_the_reference_stores_it(name: str, which: str) -> None:
    x = RNG.standard_normal((30, 1000)).astype(np.float32)
    x[RNG.random(x.shape) < 0.01] = np.nan
    x.view(np.uint32)[3, 5] = 0xFFC00001  # a negative one with a payload
    level = calibrate(format_of(name), x)
    assert_encodes_alike(name, which, x, level)
    streams = encode(format_of(name), x, level)
    assert np.isnan(decode(format_of(name), streams, 1000, level)[3, 5])
    assert_decodes_alike(name, which, streams, 1000, level)


def test_a_nan_that_the_format_cannot_store_is_refused() -> None:
    x = np.zeros((2, 32), np.float32)
    x[1, 31] = np.nan
    for backend in backends_of("sop_pair"):
        with pytest.raises(ValueError, match="no NaN to propagate"):
            backend.encode(x, TensorLevel())


def test_any_number_of_threads_gives_the_bits_of_one() -> None:
    fmt = format_of("po2_nf4")
    x = RNG.standard_normal((2011, 1024)).astype(np.float32)  # 7 times what a thread is worth
    level = calibrate(fmt, x)
    one = CBackend(fmt, threads=1)
    streams = one.encode(x, level)
    decoded = {dtype: one.decode(streams, 1024, level, dtype) for dtype in DTYPES}
    for threads in (2, 3, 7):
        several = CBackend(fmt, threads=threads)
        parallel = several.encode(x, level)
        assert all(np.array_equal(streams[name], parallel[name]) for name in streams)
        for dtype, wanted in decoded.items():
            assert np.array_equal(several.decode(streams, 1024, level, dtype), wanted)


@pytest.mark.parametrize("name", ["mxfp4", "seven", "e4m3_rows", "sop_pair"])
def test_large_outputs_written_past_the_caches_have_the_same_bits_at_any_address(name: str) -> None:
    rows, length = 700, 1601  # 4.3 MiB of binary32, most rows on no cache line
    fmt = format_of(name)
    x = RNG.standard_normal((rows, length)).astype(np.float32)
    level = calibrate(fmt, x)
    streams = backend_of(name).encode(x, level)
    wanted = decode(fmt, streams, length, level)
    for backend in backends_of(name):
        for offset in (0, 4, 28, 60):
            room = np.full(4 * rows * length + 128, 0xA5, np.uint8)
            start = -room.ctypes.data % 64 + offset
            end = start + 4 * rows * length
            out = room[start:end].view(np.float32).reshape(rows, length)
            backend.decode(streams, length, level, out=out)
            assert np.array_equal(out, wanted), (backend.target.name, offset)
            assert (room[:start] == 0xA5).all()
            assert (room[end:] == 0xA5).all()


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


@pytest.mark.parametrize(
    ("dtype", "kind"), [("float32", np.float32), ("bfloat16", np.uint16), ("float16", np.float16)]
)
def test_decoding_writes_to_the_output_that_it_is_given_and_refuses_one_that_does_not_fit(
    dtype: str, kind: type[np.generic]
) -> None:
    backend = backend_of("mxfp4")
    level = TensorLevel()
    streams = backend.encode(RNG.standard_normal((3, 40)).astype(np.float32), level)
    out = np.full((3, 40), 7, kind)
    assert backend.decode(streams, 40, level, dtype, out) is out
    assert np.array_equal(out, backend.decode(streams, 40, level, dtype))
    read_only = out.copy()
    read_only.flags.writeable = False
    for wrong in (out[:, :39], out.astype(np.float64), np.asfortranarray(out), read_only):
        with pytest.raises(ValueError, match=f"not writeable contiguous {np.dtype(kind)}"):
            backend.decode(streams, 40, level, dtype, wrong)


def test_numbers_that_are_not_decoded_to_are_named() -> None:
    backend = backend_of("mxfp4")
    streams = backend.encode(np.ones((1, 32), np.float32), TensorLevel())
    with pytest.raises(ValueError, match=r"no numbers 'float64' .* float32, .*float16"):
        backend.decode(streams, 32, TensorLevel(), "float64")


def test_a_target_that_there_is_not_or_that_does_not_run_here_is_refused() -> None:
    backend_of("mxfp4")
    with pytest.raises(ValueError, match=r"no target 'sse9' .* avx512, avx2, neon, portable"):
        CBackend(format_of("mxfp4"), target="sse9")
    for target in TARGETS:
        if target not in targets():
            with pytest.raises(
                BackendUnavailable, match=f"does not run the target '{target.name}'"
            ):
                CBackend(format_of("mxfp4"), target=target.name)


def test_the_fastest_target_is_taken_by_itself_and_the_others_by_name() -> None:
    assert CBackend(format_of("mxfp4")).target == targets()[0]
    assert targets()[-1].name == "portable"
    for backend in backends_of("mxfp4"):
        assert backend.inner(format_of("nvfp4")).target == backend.target


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
    with pytest.raises(ValueError, match="two-dimensional"):
        backend.encode(np.ones(4, np.float32), level)
