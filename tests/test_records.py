from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from fmtc import compile_text
from fmtc.compiler import records
from fmtc.compiler.format import Format, Record, RecordField, Stream
from fmtc.compiler.items import record_bytes, stream_items
from fmtc.compiler.packing import pack
from fmtc.compiler.records import bit_places, from_records, to_records
from hypothesis import given, settings
from hypothesis import strategies as st

Items = dict[str, np.ndarray]

STORED = "as { block 8  grid u6 = int 6 { range unsigned }  scale fp16 }"
K_SCALES = f"scale fp32 {{ rule range }} {STORED}  zero minimum {{ sign negated }} {STORED}"
K_FIELDS = "scales.scales, zeros.scales, scales.codes { order k_quants }, "
K_FIELDS += "zeros.codes { order k_quants }"


@cache
def compile_one(clauses: str) -> Format:
    return compile_text(f"format mine {{ {clauses} }}")


def random_items(fmt: Format, rows: int, records_in_a_row: int, seed: int = 0) -> Items:
    """Every stream's items as whole numbers, [rows, items]; fp16 words are small numbers."""
    rng = np.random.default_rng(seed)
    items = {}
    for name, item in stream_items(fmt).items():
        count = item.count(fmt.record.elements) * records_in_a_row
        if item.bits == 16:
            words = rng.normal(size=(rows, count)).astype(np.float16).view(np.uint16)
        else:
            words = rng.integers(0, (1 << item.bits) - 1, (rows, count))
        items[name] = words.astype(np.uint32)
    return items


def packed(fmt: Format, items: Items) -> dict[str, np.ndarray]:
    table = stream_items(fmt)
    return {
        name: pack(words, Stream(name, table[name].bits, "element", table[name].order))
        for name, words in items.items()
    }


def random_streams(fmt: Format, rows: int, length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    widths = {name: item.count(length) * item.bits // 8 for name, item in stream_items(fmt).items()}
    return {name: rng.integers(0, 256, (rows, w), np.uint8) for name, w in widths.items()}


def halves(words: np.ndarray) -> np.ndarray:
    return words.astype(np.uint16).view(np.float16).astype(np.float32)


def per_element(words: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return np.repeat(words, codes.shape[1] // words.shape[1], axis=1)


def offset_by(zero: int) -> Callable[[Items], np.ndarray]:
    """d * (code - zero), with d in fp16."""

    def decode(items: Items) -> np.ndarray:
        codes = items["codes"].astype(np.float32) - np.float32(zero)
        return per_element(halves(items["scales"]), codes) * codes

    return decode


def with_minimum(items: Items) -> np.ndarray:
    codes = items["codes"].astype(np.float32)
    product = per_element(halves(items["scales"]), codes) * codes
    return product + per_element(halves(items["zeros"]), codes)


def k_quant(zero: int, scale_zero: int, minimum: bool) -> Callable[[Items], np.ndarray]:
    """(d * (scale - scale_zero)) * (code - zero) - dmin * minimum, in fp32."""

    def decode(items: Items) -> np.ndarray:
        codes = items["codes"].astype(np.float32) - np.float32(zero)
        blocks = items["scales.codes"].astype(np.float32) - np.float32(scale_zero)
        effective = per_element(halves(items["scales.scales"]), blocks) * blocks
        result = per_element(effective, codes) * codes
        if minimum:
            lows = items["zeros.codes"].astype(np.float32)
            result -= per_element(per_element(halves(items["zeros.scales"]), lows) * lows, codes)
        return result

    return decode


def from_table(values: tuple[int, ...], scales: Callable[[np.ndarray], np.ndarray], key: str):
    def decode(items: Items) -> np.ndarray:
        codes = np.array(values, np.float32)[items["codes"]]
        return per_element(scales(items[key]), codes) * codes

    return decode


E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def iq4_xs(items: Items) -> np.ndarray:
    blocks = items["scales.codes"].astype(np.float32) - np.float32(32)
    effective = per_element(halves(items["scales.scales"]), blocks) * blocks
    codes = np.array(IQ4, np.float32)[items["codes"]]
    return per_element(effective, codes) * codes


def half_e8m0(words: np.ndarray) -> np.ndarray:
    return np.ldexp(np.float32(0.5), words.astype(np.int32) - 127)


def half_e4m3(words: np.ndarray) -> np.ndarray:
    exponent, mantissa = words.astype(np.int32) >> 3 & 15, (words & 7).astype(np.float32)
    normal = np.ldexp(1 + mantissa / 8, exponent - 7)
    values = np.where(exponent == 0, mantissa / 512, normal) / 2
    return np.where(words == 0x7F, 0, values).astype(np.float32)


@dataclass(frozen=True)
class Peer:
    """A type of GGUF, the clauses that lay it out, and what its items mean."""

    name: str
    clauses: str
    decode: Callable[[Items], np.ndarray]


def signed_bytes(items: Items) -> np.ndarray:
    codes = items["codes"].astype(np.uint8).view(np.int8).astype(np.float32)
    return per_element(halves(items["scales"]), codes) * codes


def signed_scales(items: Items) -> np.ndarray:
    words = items["scales.codes"].astype(np.uint8).view(np.int8).astype(np.float32)
    return k_quant(32, 0, minimum=False)({**items, "scales.codes": words})


PEERS = [
    Peer(
        "Q4_0",
        "block 32  grid q = int 4 { range offset }  scale fp16 "
        "record 32 { scales, codes { order halves } }",
        offset_by(8),
    ),
    Peer(
        "Q4_1",
        "block 32  grid q = int 4 { range unsigned }  scale fp16 { rule range } "
        "zero minimum { word fp16 }  record 32 { scales, zeros, codes { order halves } }",
        with_minimum,
    ),
    Peer(
        "Q5_0",
        "block 32  grid q = int 5 { range offset }  scale fp16 "
        "record 32 { scales, codes { from 4 }, codes { bits 4  order halves } }",
        offset_by(16),
    ),
    Peer(
        "Q5_1",
        "block 32  grid q = int 5 { range unsigned }  scale fp16 { rule range } "
        "zero minimum { word fp16 } "
        "record 32 { scales, zeros, codes { from 4 }, codes { bits 4  order halves } }",
        with_minimum,
    ),
    Peer("Q8_0", "block 32  grid q = int 8  scale fp16  record 32 { scales, codes }", signed_bytes),
    Peer(
        "IQ4_NL",
        "block 32  grid q = codebook 4 { " + ", ".join(map(str, IQ4)) + " } scale fp16 "
        "record 32 { scales, codes { order halves } }",
        from_table(IQ4, halves, "scales"),
    ),
    Peer(
        "MXFP4",
        "block 32  grid e2m1  scale e8m0  record 32 { scales, codes { order halves } }",
        from_table(E2M1, half_e8m0, "scales"),
    ),
    Peer(
        "NVFP4",
        "block 16  grid e2m1  scale ue4m3 { container 8 } "
        "record 64 { scales, codes { order halves  run 16 } }",
        from_table(E2M1, half_e4m3, "scales"),
    ),
    Peer(
        "Q2_K",
        "block 16  grid q = int 2 { range unsigned }  scale fp32 { rule range } "
        "as { block 16  grid u = int 4 { range unsigned }  scale fp16 }  zero minimum { sign "
        "negated } as { block 16  grid u = int 4 { range unsigned }  scale fp16 } "
        "record 256 { scales.codes { order k_quants }, zeros.codes { order k_quants }, "
        "codes { order halves  run 128 }, scales.scales, zeros.scales }",
        k_quant(0, 0, minimum=True),
    ),
    Peer(
        "Q3_K",
        "block 16  grid q = int 3 { range offset }  scale fp32 "
        "as { block 16  grid u = int 6 { range offset }  scale fp16 } "
        "record 256 { codes { from 2  order halves }, codes { bits 2  order halves  run 128 }, "
        "scales.codes { bits 4  order halves }, scales.codes { from 4  order halves }, "
        "scales.scales }",
        k_quant(4, 32, minimum=False),
    ),
    Peer(
        "Q4_K",
        f"block 32  grid q = int 4 {{ range unsigned }} {K_SCALES} "
        f"record 256 {{ {K_FIELDS}, codes {{ order halves  run 64 }} }}",
        k_quant(0, 0, minimum=True),
    ),
    Peer(
        "Q5_K",
        f"block 32  grid q = int 5 {{ range unsigned }} {K_SCALES} "
        f"record 256 {{ {K_FIELDS}, codes {{ from 4  order halves }}, "
        "codes { bits 4  order halves  run 64 } }",
        k_quant(0, 0, minimum=True),
    ),
    Peer(
        "Q6_K",
        "block 16  grid q = int 6 { range offset }  scale fp32 "
        "as { block 16  grid s = int 8  scale fp16 } "
        "record 256 { codes { bits 4  order halves  run 128 }, "
        "codes { from 4  order halves  run 128 }, scales.codes, scales.scales }",
        signed_scales,
    ),
    Peer(
        "IQ4_XS",
        "block 32  grid q = codebook 4 { " + ", ".join(map(str, IQ4)) + " } "
        "scale fp32 as { block 8  grid u = int 6 { range offset }  scale fp16 } "
        "record 256 { scales.scales, scales.codes { from 4 }, scales.codes { bits 4 }, "
        "codes { order halves  run 32 } }",
        iq4_xs,
    ),
]


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_gguf_reads_records_as_what_their_items_mean(peer: Peer) -> None:
    gguf = pytest.importorskip("gguf", reason="needs the package 'gguf'")
    fmt = compile_one(peer.clauses)
    kind = gguf.GGMLQuantizationType[peer.name]
    assert gguf.GGML_QUANT_SIZES[kind] == (fmt.record.elements, record_bytes(fmt))
    items = random_items(fmt, rows=5, records_in_a_row=3)
    length = 3 * fmt.record.elements
    made = to_records(fmt, packed(fmt, items), 5, length)
    np.testing.assert_array_equal(gguf.quants.dequantize(made, kind), peer.decode(items))


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_record_is_as_long_as_its_streams(peer: Peer) -> None:
    fmt = compile_one(peer.clauses)
    assert fmt.exact_bpw * fmt.record.elements == 8 * record_bytes(fmt)


def cut(draw: st.DrawFn, bits: int) -> list[tuple[int, int]]:
    """Cut so many bits into slices (lowest bit, bits)."""
    stops = sorted(draw(st.sets(st.integers(1, bits - 1)))) if bits > 1 else []
    edges = [0, *stops, bits]
    return [(low, high - low) for low, high in pairwise(edges)]


@st.composite
def formats_with_records(draw: st.DrawFn) -> Format:
    bits = draw(st.integers(1, 8))
    order = draw(st.sampled_from(["low_first", "high_first"]))
    scale = draw(
        st.sampled_from(
            [
                "scale e4m3",
                "scale s1e5m5",
                "scale fp32",
                "scale e2m1 { container 4 }",
                "scale fp32 as { block 2  grid u = int 5 { range unsigned }  scale fp32 }",
            ]
        )
    )
    fmt = compile_one(f"block 8  grid q = int {bits} {{ range unsigned }}  pack {order}  {scale}")
    elements = 128 * draw(st.integers(1, 2))
    fields = []
    for name, item in stream_items(fmt).items():
        for low, width in cut(draw, item.bits):
            count = item.count(elements)
            way = draw(st.sampled_from(["low_first", "high_first", "halves"]))
            runs = [r for r in range(1, count + 1) if count % r == 0 and r * width % 8 == 0]
            if way == "halves" and (width not in (1, 2, 4, 8)):
                way = "low_first"
            run = draw(st.sampled_from(runs)) if way == "halves" else count
            fields.append(RecordField(name, width, low, way, run))
    ordered = tuple(draw(st.permutations(fields)))
    return replace(fmt, record=Record(elements, ordered))


@given(formats_with_records(), st.integers(0, 3), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_from_records_undoes_to_records(fmt: Format, rows: int, count: int) -> None:
    length = count * fmt.record.elements
    streams = random_streams(fmt, rows, length)
    made = to_records(fmt, streams, rows, length)
    assert made.shape == (rows, count * record_bytes(fmt))
    back = from_records(fmt, made, length)
    assert back.keys() == streams.keys()
    for name, octets in streams.items():
        np.testing.assert_array_equal(back[name], octets)


@given(formats_with_records())
@settings(max_examples=30, deadline=None)
def test_every_stored_bit_stands_once_in_a_record(fmt: Format) -> None:
    elements = fmt.record.elements
    widths = {
        name: item.count(elements) * item.bits // 8 for name, item in stream_items(fmt).items()
    }
    total = sum(widths.values())
    ones = np.packbits(np.eye(8 * total, dtype=np.uint8), axis=1)
    edges = np.cumsum([0, *widths.values()])
    streams = {
        name: ones[:, start:stop].copy()
        for name, (start, stop) in zip(widths, pairwise(edges), strict=True)
    }
    moved = np.unpackbits(to_records(fmt, streams, 8 * total, elements), axis=1)
    assert (moved.sum(axis=0) == 1).all()
    assert (moved.sum(axis=1) == 1).all()


def field_bits(words: list[int], field: RecordField) -> str:
    """A field's bytes, lowest bit of byte 0 first, item by item as the language has it."""
    slices = [word >> field.low & (1 << field.bits) - 1 for word in words]
    if field.order == "low_first":
        return "".join(f"{s:0{field.bits}b}"[::-1] for s in slices)
    if field.order == "high_first":
        top_down = "".join(f"{s:0{field.bits}b}" for s in slices)
        return "".join(top_down[i : i + 8][::-1] for i in range(0, len(top_down), 8))
    text = ""
    for start in range(0, len(slices), field.run):
        run = slices[start : start + field.run]
        stride = field.run * field.bits // 8
        for j in range(stride):
            text += "".join(f"{s:0{field.bits}b}"[::-1] for s in run[j::stride])
    return text


@given(formats_with_records(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_fields_stand_in_their_order(fmt: Format, seed: int) -> None:
    items = random_items(fmt, 1, 1, seed)
    made = to_records(fmt, packed(fmt, items), 1, fmt.record.elements)
    expected = "".join(
        field_bits([int(w) for w in items[field.stream][0]], field) for field in fmt.record.fields
    )
    assert "".join(map(str, np.unpackbits(made[0], bitorder="little"))) == expected


@pytest.mark.parametrize("order", ["low_first", "high_first"])
@pytest.mark.parametrize("bits", [1, 3, 4, 6, 8, 12, 16, 32])
def test_bit_places_are_those_of_the_packed_streams(bits: int, order: str) -> None:
    count = 16
    places = bit_places(count, bits, order)
    for item in range(count):
        for bit in range(bits):
            words = np.zeros((1, count), np.uint32)
            words[0, item] = 1 << bit
            octets = pack(words, Stream("s", bits, "element", order))[0]
            assert np.flatnonzero(np.unpackbits(octets, bitorder="little")) == places[item, bit]


def test_large_tensors_are_worked_on_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    fmt = compile_one(next(p.clauses for p in PEERS if p.name == "Q5_K"))
    streams = random_streams(fmt, 7, 5 * 256)
    whole = to_records(fmt, streams, 7, 5 * 256)
    monkeypatch.setattr(records, "CHUNK", 3 * record_bytes(fmt) + 1)
    np.testing.assert_array_equal(to_records(fmt, streams, 7, 5 * 256), whole)
    for name, octets in from_records(fmt, whole, 5 * 256).items():
        np.testing.assert_array_equal(octets, streams[name])


def test_rows_that_are_no_whole_records_are_refused() -> None:
    fmt = compile_one(PEERS[0].clauses)
    streams = random_streams(fmt, 2, 64)
    with pytest.raises(ValueError, match="rows of 48 elements do not divide into records of 32"):
        to_records(fmt, streams, 2, 48)
    with pytest.raises(ValueError, match="rows of 48 elements"):
        from_records(fmt, np.zeros((2, 36), np.uint8), 48)


def test_streams_of_another_shape_are_refused() -> None:
    fmt = compile_one(PEERS[0].clauses)
    streams = random_streams(fmt, 2, 64)
    with pytest.raises(ValueError, match=r"'codes' has shape \[2, 16\], expected \[2, 32\]"):
        to_records(fmt, {**streams, "codes": streams["codes"][:, :16]}, 2, 64)
    with pytest.raises(ValueError, match=r"'records' has shape \[2, 35\], expected \[2, 36\]"):
        from_records(fmt, np.zeros((2, 35), np.uint8), 64)


def test_a_format_without_a_record_has_none_to_make() -> None:
    fmt = compile_one("block 32  grid e2m1  scale e8m0")
    with pytest.raises(ValueError, match="has no record"):
        to_records(fmt, {}, 0, 0)
    with pytest.raises(ValueError, match="has no record"):
        record_bytes(fmt)


def test_scales_of_a_whole_row_or_tensor_belong_to_no_neighbours() -> None:
    rows = compile_one("block row  grid int4 = int 4  scale fp32")
    assert stream_items(rows)["scales"].elements is None
    assert stream_items(rows)["codes"].elements == 1
    with pytest.raises(ValueError, match="do not belong to neighbours"):
        stream_items(rows)["scales"].count(64)


def test_streams_of_stored_scales_are_named_to_any_depth() -> None:
    fmt = compile_one(
        "block 16  grid int4 = int 4  scale fp32 as { block 4  grid int8 = int 8  scale fp32 "
        "as { block 8  grid int6 = int 6  scale fp16 } }"
    )
    found = {name: (item.bits, item.elements) for name, item in stream_items(fmt).items()}
    assert found == {
        "codes": (4, 1),
        "scales.codes": (8, 16),
        "scales.scales.codes": (6, 64),
        "scales.scales.scales": (16, 512),
    }
