"""The Triton kernels in Triton's interpreter against the reference, bit for bit."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from fmtc.compiler.exact import fp32_from_bits
from fmtc.compiler.format import Format
from fmtc.compiler.packing import pack
from fmtc.compiler.reference import TensorLevel, calibrate, decode, encode
from fmtc.compiler.resolve import compile_text
from fmtc.compiler.view import view_of
from fmtc.formats import load, names
from fmtc.runtime import triton_backend
from fmtc.runtime.backend import BackendUnavailable
from fmtc.runtime.interpreting import interpreting
from fmtc.runtime.triton_backend import TritonBackend
from numpy.typing import NDArray

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

FLT_MAX = np.finfo(np.float32).max
NF4ISH = "-1, -0.75, -0.5, -0.4, -0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1"
MIRRORED = NF4ISH.replace("-1, ", "-0.9, ")
SIXTEEN = " ".join(
    f"grid g{i} = codebook 2 {{ -{i + 1}/16, 0, {i}/64, {16 - i}/8 }}" for i in range(16)
)
ARMS = ", ".join(f"{i}: g{i}" for i in range(16))

#: What the shipped formats do not cover: one policy, width or layout each, or more.
ADHOC = {
    "one_bit": "block 64  grid c = codebook 1 { -1, 1 }  scale e5m2  tie up",
    "two_bits": "block 12  grid c = codebook 2 { 1, -1/3, 1/3, -1 }  scale ue5m3  pack high_first",
    "three_bits": """block 8  grid c = codebook 3 { -4, -2, -1, 0, 1, 2, 3, 5 }
        scale ue4m4 { shift -3 }  tie away  pack high_first""",
    "odd_block": "block 3  grid i = int 3 { range full }  scale s1e5m5 { rule argmax }",
    "odd_nibbles": "block 7  grid i = int 4  scale e8m0 { rule floor_log2 }  pack high_first",
    "five_bits": """block 16  grid e2m2  grid i = int 5  grid u = int 5 { range full }
        scale s1e5m5 { container 16  shift auto }
        select 2 bits at field { 0: e2m2, 1: i, 2: u }  pack high_first""",
    "seven_bits": "block 16  host hif7  grid hif7  scale s1e5m5 { rule argmax  shift auto }",
    "eight_bits": "block 32  grid e4m3  scale e8m0 { rule floor_log2 }  nan propagate",
    "single": "block 1  grid i = int 8 { range full }  scale fp32  nan propagate",
    "longest": "block 4096  grid i = int 4  scale fp32  nan propagate",
    "long_pair": """block 200  grid e2m1  grid i = int 4  scale e4m3 { tensor fp32 }
        select 1 bit at scale.sign { 0: e2m1, 1: i }""",
    "mirrored": f"""block 24  grid a = codebook 4 {{ {MIRRORED} }}
        grid b = codebook 4 {{ {NF4ISH} }}
        scale fp32 {{ rule argmax }}  select 1 bit at field {{ 0: a, 1: b }}""",
    "mirrored_quotient": f"""block 20  grid a = codebook 4 {{ {MIRRORED} }}
        scale s1e5m5 {{ rule argmax }}  compare fp32_quotient  tie up""",
    "meta": """block 16  grid a = e2m1  grid b = int 4  grid c = e1m2
        scale ue5m3 { container 12 }  select 2 bits at scale.meta { 0: a, 1: b, 2: c }""",
    "top_meta": """block 16  grid a = e2m1  grid b = int 4  scale ue5m3 { container 32  round up }
        select 1 bit at scale.meta { 0: a, 1: b }""",
    "sixteen": f"block 4  {SIXTEEN}  scale e8m0  select 4 bits at field {{ {ARMS} }}",
    "three_fields": """block 8  grid a = int 4  grid b = e2m1  grid c = e1m2  grid d = e3m0
        grid e = int 4 { range full }  scale e5m2  nan propagate
        select 3 bits at field { 0: a, 1: b, 2: c, 3: d, 4: e }""",
    "unsigned": "block 16  grid u = int 4 { range unsigned }  scale e4m3 { tensor fp32 }",
    "unsigned_fp32": "block 16  grid u = int 4 { range unsigned }  scale fp32 { min 0.25 }",
    "lopsided_fp32": "block 10  grid c = codebook 2 { -7, -1, 2, 3 }  scale fp32  tie down",
    "lopsided": "block 10  grid c = codebook 2 { -7, -1, 2, 3 }  scale e4m3 { round down }",
    "dropped_zero": "block 16  grid e2m1  scale e4m3 { tensor fp32 }  negative_zero drop  tie up",
    "toward_zero": "block 32  grid e2m1  scale ue5m3 { round up }  tie toward_zero",
    "zero_block": "block 64  grid e2m3  scale e5m2 { min 0.25 zero_block 1 }  nan propagate",
    "zero_midpoint": "block 16  grid c = codebook 2 { -3, -1, 1, 3 }  scale e8m0  tie up",
    "zero_midpoint_down": "block 16  grid c = codebook 2 { -3, -1, 1, 3 }  scale e8m0  tie down",
    "quotient8": "block 16  grid e4m3  scale e4m3  compare fp32_quotient  nan propagate",
    "one_sided_fp32": "block 7  grid ue2m2  scale fp32 { rule absmax  zero_block 2 }",
    "reciprocal": "block 16  grid e2m1  scale s1e5m5 { rule argmax }  compare fp32_reciprocal",
    "quotient_pair": f"""block 20  grid c = codebook 4 {{ {NF4ISH} }}  grid e2m1  scale fp32
        compare fp32_quotient  tie up  select 1 bit at scale.sign {{ 0: c, 1: e2m1 }}""",
    "table_scale": "block 8  grid e3m2  scale ue5m3 { bias -10 }  tie down",
    "three_bit_word": """block 6  grid i = int 4  scale ue2m1 { container 3  shift auto }
        pack high_first""",
    "seven_bit_word": "block 16  grid e2m1  scale ue4m3 { container 7  tensor fp32 }",
    "nine_bit_word": "block 16  grid i = int 5  scale ue4m5 { container 9  shift auto }",
    "ten_bit_word": """block 16  grid a = e2m1  grid b = int 4
        scale s1e4m4 { container 10  rule argmax }  select 1 bit at scale.meta { 0: a, 1: b }""",
    "thirteen_bit_word": """block 8  grid e2m1  grid e1m2  scale ue5m6 { container 13 }
        select 1 bit at scale.meta { 0: e2m1, 1: e1m2 }""",
    "fifteen_bit_word": "block 24  grid e2m1  scale s1e5m5 { container 15  rule argmax }",
    "small_blocks_are_zero": "block 16  grid e2m1  scale e4m3 { underflow zero_block }",
    "small_blocks_go_down": """block 16  grid i = int 4
        scale e5m2 { round down  underflow zero_block }""",
    "target": "block 16  grid e2m1  scale e4m3 { target 4 }  tie up",
    "ceil": "block 32  grid e2m1  scale e8m0 { rule ceil_log2 }",
    "even": "block 32  grid e3m2  scale e8m0 { rule even_log2 }",
    "round": "block 16  grid i = int 5  scale ue5m2 { rule round_log2 }",
    "offset": """block 32  grid i = int 4 { range offset }  scale fp32 { rule argmax }
        compare fp32_reciprocal  offset 8.5""",
    "far_scale": "block 2  grid c = codebook 1 { -0.25, 0.25 }  scale ue7m3 { shift -100 }  tie up",
}

#: One shipped format of every kind of grid, word and rule that kernels do alone.
SHIPPED = (
    *("e2m3_ue4m4", "mxfp4", "nf4", "nvfp4", "po2_nf4", "sop_pair"),
    *("fp4", "hif7_ue4m6", "mixfp4", "mxfp4_even", "mxfp6_e3m2_rceil", "nvfp4_modelopt"),
)
ALL = (*SHIPPED, *ADHOC)


@cache
def format_of(name: str) -> Format:
    return compile_text(f'format {name} "" {{ {ADHOC[name]} }}') if name in ADHOC else load(name)


@cache
def backend_of(name: str) -> TritonBackend:
    return TritonBackend(format_of(name), device="cpu")


def levels(fmt: Format, x: F32) -> list[TensorLevel]:
    """The calibrated level, and ones that leave the comfortable range where there is a choice."""
    found = [calibrate(fmt, x)]
    if fmt.scale.tensor == "fp32":
        found += [TensorLevel(tensor_scale=float(np.float32(s))) for s in (2.0**-140, 3e-39, 1e30)]
    elif fmt.scale.shift is None:
        found += [TensorLevel(shift=k) for k in (-90, 120)]
    return found


def assert_same_streams(got: dict[str, U8], want: dict[str, U8]) -> None:
    assert got.keys() == want.keys()
    for key, stream in want.items():
        assert got[key].dtype == stream.dtype
        assert got[key].shape == stream.shape
        different = np.argwhere(got[key] != stream)
        assert not len(different), f"{key}: {len(different)} bytes differ, first {different[0]}"


def assert_same_numbers(got: F32, want: F32) -> None:
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    same = (got.view(np.uint32) == want.view(np.uint32)) | (np.isnan(got) & np.isnan(want))
    assert same.all(), f"{(~same).sum()} numbers differ, first at {np.argwhere(~same)[0]}"


def assert_encodes(name: str, x: F32, level: TensorLevel) -> dict[str, U8]:
    fmt = format_of(name)
    with np.errstate(invalid="ignore"):  # an infinite scale times the midpoint zero
        want = encode(fmt, x, level)
    assert_same_streams(backend_of(name).encode(x, level), want)
    return want


def all_words(fmt: Format) -> NDArray[np.uint32]:
    """Every scale word up to 16 bits; a sample of the wider ones with all that is special."""
    container = fmt.scale.word.container
    if container <= 12:
        return np.arange(1 << container, dtype=np.uint32)
    rng = np.random.default_rng(11)
    if container == 16:
        return rng.permutation(1 << 16).astype(np.uint32)[: 1 << 12]
    edges = [0, 1, 0x007FFFFF, 0x00800000, 0x3F800000, 0x7F7FFFFF, 0x7F800000, 0x7FC00000]
    sample = rng.integers(0, 1 << 32, (1 << 12) - 2 * len(edges), dtype=np.uint32)
    positive = np.array(edges, np.uint32)
    return np.concatenate([positive, positive | np.uint32(1 << 31), sample])


def every_pair(fmt: Format) -> tuple[dict[str, U8], int]:
    """Streams in which every code stands under every scale word and every select."""
    words = all_words(fmt)[: max(64, (1 << 21) // fmt.block)]
    in_field = fmt.select.place == "field"
    selects = 1 << fmt.select.bits if in_field else 1
    size = 1 << fmt.code_bits
    blocks = max(1, size // fmt.block)  # of one word: they hold every code between them
    length = max(blocks * fmt.block, size)
    blocks = -(-length // fmt.block)
    rows = len(words) * selects
    fields = {
        "codes": np.tile(np.arange(length, dtype=np.uint32) % size, (rows, 1)),
        "scales": np.repeat(np.tile(words, selects)[:, None], blocks, axis=1),
        "select": np.repeat(np.arange(selects, dtype=np.uint32), len(words))[:, None]
        * np.ones((1, blocks), np.uint32),
    }
    return {s.name: pack(fields[s.name], s) for s in fmt.streams}, length


@pytest.mark.parametrize("name", ALL)
def test_every_code_decodes_alike_under_every_scale_word_and_select(name: str) -> None:
    fmt = format_of(name)
    streams, length = every_pair(fmt)
    for multiplier in (TensorLevel(), TensorLevel(shift=7), TensorLevel(tensor_scale=2.0**-130)):
        got = backend_of(name).decode(streams, length, multiplier)
        assert_same_numbers(got, decode(fmt, streams, length, multiplier))


def probes(fmt: Format, scales: F32) -> F32:
    """Rows of whole blocks: every midpoint of every grid at every scale, and its neighbours.

    Each block starts with an endpoint, which asks for the scale, and goes on with probes.
    """
    block = fmt.block
    rows = []
    for grid in fmt.grids:
        middles = np.array([float(a + b) / 2 for a, b in pairwise(grid.numbers)])
        for scale in scales:
            with np.errstate(over="ignore"):
                exact = (float(scale) * middles).astype(np.float32)
                end = np.float32(float(grid.absmax_end)) * scale
            below, above = np.nextafter(exact, np.float32(-np.inf)), np.nextafter(exact, np.inf)
            points = np.concatenate([below, exact, above, [0.0, -0.0]]).astype(np.float32)
            points = np.nan_to_num(points, posinf=FLT_MAX, neginf=-FLT_MAX)
            end = np.nan_to_num(end, posinf=FLT_MAX, neginf=-FLT_MAX)
            room = max(1, block - 1)
            for sign in (1, -1):
                padded = np.pad(points, (0, -len(points) % room)).reshape(-1, room)
                lead = np.full((len(padded), min(1, block - 1)), end, np.float32)
                rows.append(np.hstack([lead, padded]) * np.float32(sign))
    return np.concatenate(rows)


@pytest.mark.parametrize("name", ALL)
def test_every_midpoint_and_its_neighbours_encode_alike(name: str) -> None:
    fmt = format_of(name)
    scale = view_of(fmt).scale
    if scale.is_fp32:
        bits = [0x00000001, 0x00000777, 0x00800000, 0x3E123457, 0x3F800000, 0x42F6E979, 0x7E800001]
        stored = np.array(bits, np.uint32).view(np.float32)
    else:
        ranks = scale.ranks[:: max(1, len(scale.ranks) // 8)] + scale.ranks[-1:]
        stored = np.array([fp32_from_bits(scale.values_bits[r]) for r in ranks], np.float32)
    first = calibrate(fmt, np.ones((1, fmt.block), np.float32))
    for level in (first, *levels(fmt, np.ones((1, fmt.block), np.float32))[1:]):
        with np.errstate(over="ignore", under="ignore"):
            effective = np.abs(stored * np.float32(level.multiplier))
        assert_encodes(name, probes(fmt, effective[np.isfinite(effective)]), level)


def random_rows(fmt: Format, rows: int, length: int, seed: int) -> F32:
    """Gaussian, heavy-tailed, lattice-like and tiny rows, with zeros of both signs."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, length))
    x[1::5] = rng.standard_t(2, x[1::5].shape)
    x[2::5] = np.round(x[2::5] * 4) / 4
    x[3::5] *= np.exp2(rng.integers(-30, 30, x[3::5].shape))
    x[4::5] *= 2.0 ** float(rng.integers(-140, -20))
    x[rng.random(x.shape) < 0.02] = 0.0
    x[rng.random(x.shape) < 0.02] *= -0.0
    if fmt.policies.nan == "propagate":
        x[rng.random(x.shape) < 0.001] = np.nan
    return np.clip(x, -float(FLT_MAX), float(FLT_MAX)).astype(np.float32)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_million_random_values_encode_and_decode_alike(name: str) -> None:
    fmt = format_of(name)
    x = random_rows(fmt, 200, 5003, seed=1)
    level = calibrate(fmt, x)
    streams = assert_encodes(name, x, level)
    got = backend_of(name).decode(streams, x.shape[1], level)
    assert_same_numbers(got, decode(fmt, streams, x.shape[1], level))


@pytest.mark.parametrize("name", ADHOC)
def test_random_values_of_odd_formats_encode_and_decode_alike(name: str) -> None:
    fmt = format_of(name)
    x = random_rows(fmt, 20, 2 * fmt.block + 331, seed=2)
    for level in levels(fmt, x):
        streams = assert_encodes(name, x, level)
        got = backend_of(name).decode(streams, x.shape[1], level)
        assert_same_numbers(got, decode(fmt, streams, x.shape[1], level))


@pytest.mark.slow
@pytest.mark.parametrize("name", ADHOC)
def test_a_million_random_values_of_odd_formats_encode_alike(name: str) -> None:
    fmt = format_of(name)
    x = random_rows(fmt, 100, 10007, seed=3)
    assert_encodes(name, x, calibrate(fmt, x))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_ten_million_random_values_encode_alike(name: str) -> None:
    fmt = format_of(name)
    for seed in range(10):
        x = random_rows(fmt, 64, 1 << 14, seed=10 + seed)
        assert_encodes(name, x, calibrate(fmt, x))


# Of the others, the elements are done under given scales: see test_triton_given.
@pytest.mark.parametrize("name", [n for n in names() if n not in SHIPPED and load(n).is_plain])
def test_every_other_shipped_format_that_kernels_do_alone_encodes_alike(name: str) -> None:
    fmt = format_of(name)
    x = random_rows(fmt, 12, 1003, seed=4)
    level = calibrate(fmt, x)
    streams = assert_encodes(name, x, level)
    got = backend_of(name).decode(streams, x.shape[1], level)
    assert_same_numbers(got, decode(fmt, streams, x.shape[1], level))


@pytest.mark.parametrize("name", ALL)
def test_rows_of_any_length_encode_and_decode_alike(name: str) -> None:
    fmt = format_of(name)
    lengths = {1, 2, fmt.block - 1, fmt.block, fmt.block + 1, 2 * fmt.block + 3, 8 * fmt.block - 5}
    for length in sorted(lengths - {0}):
        if length > 5000:
            continue
        x = random_rows(fmt, 3, length, seed=length)
        level = calibrate(fmt, x)
        streams = assert_encodes(name, x, level)
        got = backend_of(name).decode(streams, length, level)
        assert_same_numbers(got, decode(fmt, streams, length, level))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_an_empty_tensor_stays_empty(name: str, shape: tuple[int, int]) -> None:
    streams = assert_encodes(name, np.zeros(shape, np.float32), TensorLevel())
    assert backend_of(name).decode(streams, shape[1], TensorLevel()).shape == shape


@pytest.mark.parametrize("name", [n for n in ALL if format_of(n).policies.nan == "propagate"])
def test_a_nan_makes_its_block_nan_and_no_other(name: str) -> None:
    fmt = format_of(name)
    block = min(fmt.block, 64)
    x = np.ones((4, 3 * fmt.block), np.float32)
    x[0, 0] = x[1, fmt.block + block // 2] = np.nan
    x[2] = np.nan
    x[3, -1] = np.array(0xFFC00001, np.uint32).view(np.float32)
    level = calibrate(fmt, x)
    streams = assert_encodes(name, x, level)
    got = backend_of(name).decode(streams, x.shape[1], level)
    assert_same_numbers(got, decode(fmt, streams, x.shape[1], level))
    broken = np.isnan(x).reshape(4, 3, fmt.block).any(axis=2)
    assert (np.isnan(got).reshape(4, 3, fmt.block).any(axis=2) == broken).all()


@pytest.mark.parametrize("name", ALL)
def test_zeros_and_extremes_encode_alike(name: str) -> None:
    fmt = format_of(name)
    tiny = np.float32(1e-45)
    values = np.array([0, -0.0, tiny, -tiny, 1e-38, -1e-38, 1, -1, FLT_MAX, -FLT_MAX], np.float32)
    length = fmt.block + 1
    rows = [np.full(length, v, np.float32) for v in values]
    rows += [np.where(np.arange(length) % 2, v, -v).astype(np.float32) for v in values]
    rows += [np.where(np.arange(length) == 0, v, np.float32(-0.0)) for v in values]
    x = np.array(rows, np.float32)
    for level in levels(fmt, x):
        streams = assert_encodes(name, x, level)
        got = backend_of(name).decode(streams, length, level)
        assert_same_numbers(got, decode(fmt, streams, length, level))


def test_a_tie_between_grids_goes_to_the_first() -> None:
    text = """format twins "" { block 8  grid a = codebook 2 { -3, -1, 1, 3 }
        grid b = codebook 2 { 3, 1, -1, -3 }  grid c = codebook 2 { -3, -1, 1, 3 }
        scale e8m0  select 2 bits at field { 0: a, 1: b, 2: c } }"""
    fmt = compile_text(text)
    x = np.random.default_rng(5).standard_normal((50, 64)).astype(np.float32)
    want = encode(fmt, x, TensorLevel())
    assert_same_streams(TritonBackend(fmt, device="cpu").encode(x, TensorLevel()), want)
    assert not want["select"].any()


def test_errors_are_summed_in_the_order_of_the_elements() -> None:
    """Blocks whose two errors differ by the rounding of the sum alone."""
    text = """format mirror "" { block 16  grid a = codebook 2 { -3, -1, 0, 3 }
        grid b = codebook 2 { -3, 0, 1, 3 }  scale e8m0  select 1 bit at field { 0: a, 1: b } }"""
    fmt = compile_text(text)
    half = np.random.default_rng(6).standard_normal((4000, 8)).astype(np.float32)
    x = np.hstack([half, -half[:, np.random.default_rng(7).permutation(8)]])
    want = encode(fmt, x, TensorLevel())
    assert_same_streams(TritonBackend(fmt, device="cpu").encode(x, TensorLevel()), want)
    assert 0 < np.unpackbits(want["select"]).sum() < len(x)


def test_a_program_of_any_size_gives_the_same_bytes() -> None:
    torch = pytest.importorskip("torch")
    from fmtc.compiler.thresholds import scale_thresholds

    for name in ("sop_pair", "e2m3_ue4m4", "odd_nibbles"):
        fmt = format_of(name)
        x = random_rows(fmt, 3, 200, seed=4)
        level = calibrate(fmt, x)
        thresholds = torch.from_numpy(scale_thresholds(view_of(fmt), level.multiplier))
        module = triton_backend.load_module(fmt, "encode", interpreted=True)
        with interpreting():
            got = module.encode(torch.from_numpy(x), thresholds, level.multiplier, blocks=4)
        assert_same_streams({k: v.numpy() for k, v in got.items()}, encode(fmt, x, level))


def test_tensors_need_no_numpy_and_need_not_be_contiguous() -> None:
    torch = pytest.importorskip("torch")
    fmt, backend = load("nvfp4"), backend_of("nvfp4")
    x = torch.from_numpy(random_rows(fmt, 96, 40, seed=12)).T
    level = calibrate(fmt, x.numpy())
    streams = backend.encode_tensor(x, level)
    want = encode(fmt, np.ascontiguousarray(x.numpy()), level)
    assert_same_streams({k: v.numpy() for k, v in streams.items()}, want)
    decoded = backend.decode_tensor(streams, 96, level)
    assert isinstance(decoded, torch.Tensor)
    assert_same_numbers(decoded.numpy(), decode(fmt, want, 96, level))


def test_reading_streams_that_cannot_be_written_makes_a_copy() -> None:
    fmt, backend = load("mxfp4"), backend_of("mxfp4")
    x = np.ones((2, 64), np.float32)
    sealed = encode(fmt, x, TensorLevel())
    streams = {k: np.frombuffer(v.tobytes(), np.uint8).reshape(v.shape) for k, v in sealed.items()}
    assert (backend.decode(streams, 64, TensorLevel()) == x).all()


def test_the_language_is_as_before_after_an_interpreted_launch() -> None:
    from triton import language as tl

    before = (tl.max, tl.min, tl.sum, tl.load)
    backend_of("mxfp4").encode(np.ones((1, 32), np.float32), TensorLevel())
    assert (tl.max, tl.min, tl.sum, tl.load) == before


@pytest.mark.parametrize("missing", ["torch", "triton"])
def test_a_missing_library_is_named_with_the_way_to_get_it(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_backend, "find_spec", lambda name: None if name == missing else 1)
    with pytest.raises(BackendUnavailable, match=rf"{missing} is not installed: pip install"):
        TritonBackend(load("mxfp4"))
