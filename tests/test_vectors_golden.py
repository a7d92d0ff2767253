"""Golden vectors: their values against the reference and against exact rationals."""

import json
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from fmtc import formats
from fmtc.codegen import emit
from fmtc.codegen.design import design_of, side_of
from fmtc.codegen.vectors.decode import MOST_VECTORS
from fmtc.codegen.vectors.dot import dot_cases, exact_sum
from fmtc.codegen.vectors.memory import decoder_count, dot_count
from fmtc.codegen.vectors.words import decoder_words, element_words, scale_fields, select_of
from fmtc.compiler.exact import fp32_bits, fp32_from_bits, round_fp32
from fmtc.compiler.hosts import HIF7, HIF8
from fmtc.compiler.packing import pack
from fmtc.compiler.reference import TensorLevel, decode, encode
from fmtc.compiler.resolve import compile_text
from fmtc.compiler.view import view_of
from representatives import PLAIN

FORMATS = Path(__file__).parent / "golden/verilog/formats"
OWN = sorted(FORMATS.glob("*.fmt"))
EVERY = [*PLAIN, *OWN]


@lru_cache
def vectors_of(fmt):
    return emit(fmt, "vectors")


@lru_cache
def objects(fmt, kind):
    lines = vectors_of(fmt)[f"{fmt.name}_{kind}.jsonl"].splitlines()
    head, *rest = [json.loads(line) for line in lines]
    assert head["kind"] == kind
    assert (head["format"], head["hash"]) == (fmt.name, fmt.content_hash)
    return head, rest


def test_hif7_has_80_values_and_hif8_has_96():
    for name, host, count in (("hif7_words", HIF7, 80), ("hif8_words", HIF8, 96)):
        fmt = formats.load(FORMATS / f"{name}.fmt")
        words = [word for word in element_words(fmt) if word.valid]
        values = {word.word.value for word in words}
        assert values == set(host.words())
        assert len(values) == count


def test_e2m3_times_8_lies_in_hif7_and_leaves_17_points():
    fmt = formats.load("e2m3_ue4m4")
    scaled = {value * 8 for value in fmt.grids[0].numbers}
    hif7 = set(HIF7.words())
    assert scaled < hif7
    unused = {s * v for v in range(72, 121, 8) for s in (1, -1)} | {64, -64, -128}
    assert hif7 - scaled == unused
    assert len(unused) == 17


def test_hif7_times_hif8_has_the_widths_of_sop():
    shapes = design_of(formats.load(FORMATS / "hif7_words.fmt"))
    assert (shapes.product.low, shapes.product.high, shapes.product.bits) == (-240, 256, 10)
    assert (shapes.term.low, shapes.term.high, shapes.term.bits) == (-30720, 32768, 17)
    assert shapes.total.bits == 21


@pytest.mark.parametrize("name", EVERY, ids=str)
def test_every_file_carries_the_hash_and_stays_small(name):
    fmt = formats.load(name)
    files = vectors_of(fmt)
    assert set(files) == {
        f"{fmt.name}_{suffix}"
        for suffix in (
            "README.md",
            "tensors.jsonl",
            "decode.jsonl",
            "encode.jsonl",
            "decoder.memh",
            "dot.memh",
        )
    }
    for file, text in files.items():
        assert fmt.content_hash in text
        assert text.isascii()
        if file.endswith(".jsonl"):
            assert len(text) < 10_000_000
    assert f"vectors: {decoder_count(fmt)} " in files[f"{fmt.name}_decoder.memh"]
    assert f"vectors: {dot_count(design_of(fmt))}," in files[f"{fmt.name}_dot.memh"]


@pytest.mark.parametrize("name", EVERY, ids=str)
def test_element_word_times_scale_fields_rounds_once_to_the_decoded_bits(name):
    fmt = formats.load(name)
    head, vectors = objects(fmt, "decode")
    side = side_of(fmt)
    assert len(vectors) == head["scale_words"] * side.selects * side.codes <= MOST_VECTORS
    step = max(1, len(vectors) // 2000) | 1
    for vector in vectors[::step]:
        fields = scale_fields(fmt, vector["word"])
        scale = fields["scale_significand"] * Fraction(2) ** (
            fields["scale_exponent"] - side.scale_bias
        )
        sign = -1 if fields["scale_sign"] else 1
        c, s = vector["coefficient"], vector["shift"]
        element = None if c is None else c << s
        if element is None or fields["scale_nan"] or fields.get("scale_infinity"):
            continue
        product = sign * element * Fraction(2) ** side.operand.unit * scale
        bits = int(vector["bits"], 16)
        decoded = fp32_from_bits(bits)
        if head["shift"]:
            product /= Fraction(2) ** head["shift"]
        assert fp32_bits(decoded) == bits
        assert decoded == round_fp32(product), vector


@pytest.mark.parametrize("name", EVERY, ids=str)
def test_decode_vectors_are_the_references_for_packed_bytes(name):
    fmt = formats.load(name)
    _, vectors = objects(fmt, "decode")
    codes = 1 << fmt.code_bits
    groups = [vectors[i : i + codes] for i in range(0, len(vectors), codes)]
    groups = groups[:: max(1, len(groups) // 12)]
    # A row of one block for every chunk of codes that fits a block.
    for group in groups:
        for start in range(0, codes, fmt.block):
            some = group[start : start + fmt.block]
            fields = {
                "codes": [v["code"] for v in some],
                "scales": [some[0]["word"]],
                "select": [some[0]["select"]],
            }
            streams = {s.name: pack(np.array([fields[s.name]], np.uint32), s) for s in fmt.streams}
            level = TensorLevel(shift=fmt.scale.shift or 0)
            decoded = decode(fmt, streams, len(some), level)[0]
            for value, vector in zip(decoded, some, strict=True):
                if np.isnan(value):
                    assert vector["bits"] == "7fc00000"
                else:
                    assert vector["bits"] == f"{fp32_bits(float(value)):08x}"
                    assert np.signbit(value) == (int(vector["bits"], 16) >> 31)


@pytest.mark.parametrize("name", EVERY, ids=str)
def test_encode_vectors_are_the_references_rows_one_by_one(name):
    fmt = formats.load(name)
    _, vectors = objects(fmt, "encode")
    cases = {vector["case"].split(" of ")[0] for vector in vectors}
    assert cases >= {"midpoints", "extremes", "zeros", "remainder", "gaussian", "any finite bits"}
    assert ("nan" in cases) == (fmt.policies.nan == "propagate")
    assert any(len(v["x"]) % fmt.block for v in vectors) or fmt.block == 1
    for vector in vectors[:: max(1, len(vectors) // 30)]:
        x = np.array([int(bits, 16) for bits in vector["x"]], np.uint32).view(np.float32)
        level = TensorLevel(fp32_from_bits(int(vector["tensor_scale"], 16)), vector["shift"])
        streams = encode(fmt, x[None], level)
        assert {k: v.tobytes().hex() for k, v in streams.items()} == vector["bytes"]
        fields = {"codes": vector["codes"], "scales": vector["scales"], "select": vector["selects"]}
        for stream in fmt.streams:
            packed = pack(np.array([fields[stream.name]], np.uint32), stream)
            assert packed.tobytes().hex() == vector["bytes"][stream.name]
        if fmt.select.place != "field":
            assert vector["selects"] == [select_of(fmt, word) for word in vector["scales"]]


def test_midpoint_rows_meet_every_threshold_on_both_sides():
    fmt = formats.load("mxfp4")
    rows = [v for v in objects(fmt, "encode")[1] if v["case"] == "midpoints of e2m1"]
    order = view_of(fmt).grids[0].order
    rank = {code: i for i, code in enumerate(order)}
    crossed = set()
    for row in rows:
        for below, above in zip(row["codes"][1::3], row["codes"][3::3], strict=False):
            crossed.add((rank[below], rank[above]))
    values = [fmt.grids[0].values[code] for code in order]
    steps = {(i, i + 1) for i in range(len(order) - 1) if values[i] != values[i + 1]}
    assert crossed >= steps  # all but the step from -0 to +0, which is no midpoint


@pytest.mark.parametrize("name", EVERY, ids=str)
def test_the_golden_sums_are_exact_in_integers(name):
    fmt = formats.load(name)
    design = design_of(fmt)
    words = element_words(fmt)
    invalid = 0
    sums = []
    for case in dot_cases(design):
        select = case.select_field if fmt.select.place == "field" else select_of(fmt, case.word)
        total = 0
        for code, (coefficient, shift) in zip(case.codes, case.activations, strict=True):
            word = words[select << fmt.code_bits | code]
            if word.valid and shift <= 4:
                total += (word.word.coefficient * coefficient) << (word.word.shift + shift)
        golden, valid = exact_sum(design, case)
        assert golden == total
        invalid += not valid
        sums.append(golden)
        assert len(case.codes) == len(case.activations) == fmt.block
    assert 3 <= invalid < len(sums) // 2
    assert design.total.low <= min(sums) <= max(sums) <= design.total.high
    if fmt.host != "fp32":
        return  # a table may hold any words of the host, not only this format's
    # The extremes are reached: one bit less would not hold the sums.
    assert {min(sums), max(sums)} & {design.total.low, design.total.high}
    bits = max(s.bit_length() if s >= 0 else (~s).bit_length() for s in sums) + 1
    assert bits == design.total.bits


@pytest.mark.parametrize("name", EVERY, ids=str)
def test_the_scale_words_of_the_bench_reach_everything(name):
    fmt = formats.load(name)
    words = decoder_words(fmt)
    assert list(words) == sorted(set(words))
    if fmt.scale.word.container <= 12:
        assert len(words) == 1 << fmt.scale.word.container
    scale = view_of(fmt).scale
    magnitudes = {w >> scale.magnitude_lsb & ((1 << scale.magnitude_bits) - 1) for w in words}
    if scale.is_fp32:
        assert {m >> 23 for m in magnitudes} == set(range(256))
        assert {m & 0x7FFFFF for m in magnitudes} >= {0, 1, 0x3FFFFF, 0x400000, 0x7FFFFF}
    else:
        assert len(magnitudes) == 1 << scale.magnitude_bits
    if fmt.select.place != "field":
        assert {select_of(fmt, w) for w in words} == set(range(1 << fmt.select.bits))


def test_scale_fields_of_known_words():
    e8m0 = formats.load("mxfp4")
    assert scale_fields(e8m0, 127)["scale_exponent"] == 127
    assert scale_fields(e8m0, 127)["scale_significand"] == 1
    assert scale_fields(e8m0, 0)["scale_significand"] == 1
    assert scale_fields(e8m0, 255)["scale_nan"] == 1
    # S1E5M5, bias 15: s eeeee mmmmm u
    pair = formats.load("sop_pair")
    fields = scale_fields(pair, 0b1_01111_10000_1)
    assert fields == {
        "select": 1,
        "scale_sign": 1,
        "scale_nan": 0,
        "scale_zero": 0,
        "scale_exponent": 15,
        "scale_significand": 0b110000,
    }
    assert scale_fields(pair, 0b0_00000_00001_0)["scale_significand"] == 1
    assert scale_fields(pair, 0b0_00000_00001_0)["scale_exponent"] == 1
    fp32 = formats.load("nf4")
    assert scale_fields(fp32, 0x3F800000)["scale_significand"] == 1 << 23
    assert scale_fields(fp32, 0x3F800000)["scale_exponent"] == 127
    assert scale_fields(fp32, 0x7F800000)["scale_infinity"] == 1
    assert scale_fields(fp32, 0xFFC00000)["scale_nan"] == 1


def test_a_long_block_keeps_its_files_small():
    fmt = compile_text("format long { block 4096  grid e2m1  scale fp32 }")
    files = vectors_of(fmt)
    assert all(len(text) < 10_000_000 for text in files.values())
    lanes = {
        tuple(i for i, (c, _) in enumerate(case.activations) if c)
        for case in dot_cases(design_of(fmt))
        if sum(1 for c, _ in case.activations if c) == 1
    }
    assert {(0,), (4095,), (2048,), (2047,)} <= lanes
