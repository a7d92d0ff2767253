"""Proofs pass the independent checker, and no proof with one thing changed does."""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import struct
from fractions import Fraction
from functools import cache
from pathlib import Path

import fmtc
import pytest
from blocks_by_hand import by_hand
from fmtc import compile_text
from fmtc.compiler.bounds import checker
from fmtc.compiler.bounds.checker import words as words_of_checker
from fmtc.compiler.bounds.checker.check import Rejected, check, check_sealed
from fmtc.compiler.bounds.derive import derive

CHECKER = Path(checker.__file__).parent

#: Formats that together have every rule, rounding, reach and extent.
TEXTS = {
    "wanted": "block 4 grid e2m1 scale ue4m3 { rule absmax codes wanted }",
    "lost": "block 4 grid e2m1 scale ue3m2 { rule absmax underflow zero_block }",
    "down": "block 4 grid b = codebook 3 { -9, -2.5, -1, -0.25, 0.5, 1, 1.5, 7 } "
    "scale e3m2 { rule argmax round down }",
    "offset": "block 4 grid g = int 3 { range full } scale ue4m3 { rule absmax } "
    "compare fp32_quotient offset 4.25",
    "target": "block 4 grid e2m1 scale ue3m2 { rule absmax target 7 round up }",
    "rounded": "block 3 grid ue = codebook 2 { -1, 0, 0.5, 1 } scale ue4m3 { rule round_log2 }",
    "alone": "block 1 grid e2m1 scale ue3m2 { rule ceil_log2 underflow zero_block }",
    "least": "block 1 grid e2m1 scale ue4m3 { rule absmax }",
    "two": "block 3  grid a = int 2 { range full } grid b = codebook 2 { -1, 0, 0.5, 1 } "
    "scale e8m0 { rule absmax round down } select 1 bit at field { 0: a, 1: b }",
}

SHIPPED = ("mxfp4_even", "nvfp4_16x16", "nf4", "bof4s_16", "int4_row", "lut2", "four_six", "if4")

#: What a proof is free to choose, so that it may be changed and prove the same.
FREE = {"start", "stop", "count", "prices"}

#: What is left to those who run an encoder.
SEEN = {"reached", "element"}

#: Mutants of a format in the fast set.
SAMPLED = 80


@cache
def load(name):
    """A format of these, or a shipped one."""
    if name in TEXTS:
        return compile_text(f"format {name} {{ {TEXTS[name]} }}")
    return fmtc.load(name)


@cache
def text_of(name):
    """The proof of a format."""
    fmt = load(name)
    proof = json.loads(derive(fmt).as_json())
    if name == "two":
        others = [s for s in proof["statements"] if s["measure"] != "block"]
        proof["statements"] = [*others[:-1], by_hand(fmt), others[-1]]
    return json.dumps(proof)


# -- one thing changed ---------------------------------------------------------------------


def others(value):
    """Values near this one that are written as properly."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if value is None:
        return [[]]
    try:
        number = Fraction(value)
    except ValueError:
        return [value + "x"]
    changed = [Fraction(number.numerator + 1, number.denominator), -number]
    changed.append(number * (1 + Fraction(1, 1 << 40)))
    return [str(c) for c in changed if c != number]


def mutants(value, path=()):
    """Every single change: (path, what stands there instead)."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from mutants(item, (*path, key))
            yield path, {k: v for k, v in value.items() if k != key}
        yield path, value | {"more": 0}
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from mutants(item, (*path, i))
            yield path, value[:i] + value[i + 1 :]
            yield path, value[: i + 1] + value[i:]
            if i and value[i - 1] != item:
                yield path, [*value[: i - 1], item, value[i - 1], *value[i + 1 :]]
    else:
        yield from ((path, other) for other in others(value))


def changed(proof, path, value):
    """The text of a proof with another value at a path."""
    if not path:
        return json.dumps(value)
    place = proof
    for key in path[:-1]:
        place = place[key]
    kept = place[path[-1]]
    place[path[-1]] = value
    try:
        return json.dumps(proof)
    finally:
        place[path[-1]] = kept


def survivors(fmt, text, every=1):
    """The paths of changes that the checker accepts."""
    check(fmt, text)
    proof = json.loads(text)
    return survivors_among(fmt, proof, itertools.islice(mutants(json.loads(text)), 0, None, every))


def survivors_among(fmt, proof, changes):
    """The same of some changes: (path, value)."""
    found = []
    for path, value in changes:
        try:
            check(fmt, changed(proof, path, value))
        except Rejected:
            continue
        found.append(path)
    return found


def is_free(path):
    """Whether a proof may choose what stands there: how trees split, and in which order."""
    if "witness" in path:
        return bool(SEEN & set(path))
    return ("tree" in path and bool(FREE & set(path))) or path[-1] == "boxes"


@pytest.mark.parametrize("name", [*TEXTS, *SHIPPED])
def test_a_proof_passes(name):
    check(load(name), text_of(name))


@pytest.mark.parametrize("name", [*TEXTS, *SHIPPED])
def test_a_proof_with_one_thing_changed_is_rejected(name):
    total = sum(1 for _ in mutants(json.loads(text_of(name))))
    found = survivors(load(name), text_of(name), max(1, total // SAMPLED) | 1)
    assert [path for path in found if not is_free(path)] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TEXTS, *SHIPPED])
def test_every_proof_with_one_thing_changed_is_rejected(name):
    found = survivors(load(name), text_of(name))
    assert [path for path in found if not is_free(path)] == []


@pytest.mark.parametrize(("name", "every"), [("nvfp4", 1), ("po2_nf4", 17), ("q4_1", 7)])
def test_a_sealed_proof_with_any_number_changed_is_rejected(name, every):
    fmt = fmtc.load(name)
    text = derive(fmt).sealed()
    check_sealed(fmt, text)
    proof = json.loads(text)
    count = 0
    for path, value in itertools.islice(mutants(json.loads(text)), 0, None, every):
        with pytest.raises(Rejected):
            check_sealed(fmt, changed(proof, path, value))
        count += 1
    assert count > 200


def block_of(name):
    """A proof, and its statement on blocks."""
    proof = json.loads(text_of(name))
    return proof, proof["statements"][-2]


def test_boxes_may_be_in_any_order_and_split_elsewhere_and_that_is_all():
    proof, statement = block_of("two")
    place = ("statements", len(proof["statements"]) - 2)
    changes = itertools.islice(mutants(statement, place), 0, None, 7)
    found = survivors_among(load("two"), proof, changes)
    assert {path[-1] for path in found} <= {"boxes", "start", "stop"}
    statement["boxes"].reverse()
    check(load("two"), json.dumps(proof))


def refused(proof, why):
    """The proof is rejected, and for this."""
    with pytest.raises(Rejected, match=why):
        check(load("two"), json.dumps(proof))


def test_boxes_cover_every_block():
    proof, statement = block_of("two")
    boxes = statement["boxes"]
    for i in range(len(boxes)):
        statement["boxes"] = boxes[:i] + boxes[i + 1 :]
        refused(proof, r"boxes")
    statement["boxes"] = []
    refused(proof, "boxes: is empty")


def test_no_deciding_element_passes_a_turn_of_the_code_in_a_box():
    proof, statement = block_of("two")
    box = next(b for b in statement["boxes"] if b["negative"] == ["1", "3/2"])
    box["negative"] = ["1", "2"]
    refused(proof, "passes -3/2, where the code of an element turns")


def test_no_counted_interval_ends_where_an_element_decides():
    proof, statement = block_of("two")
    box = next(b for b in statement["boxes"] if b["negative"] == ["1", "3/2"])
    box["tree"] = {"start": "-5/4", "stop": "-1", "count": 1, "few": {}, "many": {}}
    refused(proof, "between -3/2 and -1, where an element decides the scale")


@pytest.mark.slow
@pytest.mark.parametrize("name", fmtc.names())
def test_every_shipped_proof_passes(name):
    check(load(name), text_of(name))


# -- what is read --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"schema": 1', '"schema": 1, "schema": 1', "twice"),
        ('"schema": 1', '"schema": NaN', "NaN"),
        ('"schema": 1', '"schema": 1.0', "1.0"),
        ('"schema": 1', '"schema": true', "True"),
        ('"schema": 1', '"schema": 2', "2"),
        ('"1/2"', '"2/4"', "lowest terms"),
        ('"1/2"', '"0.5"', "fraction"),
        ('"1/2"', '"1/2 "', "fraction"),
        ('"1/2"', '"1/0"', "fraction"),
        ('"1/2"', '"+1/2"', "fraction"),
        ('"1/2"', '"-0"', "fraction"),
        ('"1/2"', "0", "fraction"),
        ('"1/2"', "null", "fraction"),
        ('{"schema"', '[{"schema"', "JSON"),
    ],
)
def test_what_is_no_canonical_proof_is_rejected(old, new, why):
    text = text_of("wanted")
    assert old in text
    with pytest.raises(Rejected, match=why):
        check(load("wanted"), text.replace(old, new, 1))


def test_deep_and_empty_texts_are_rejected():
    for text in ("", "[" * 100000, "{}", "[]", "null", '"1/2"'):
        with pytest.raises(Rejected):
            check(load("nf4"), text)


def test_a_rejection_names_the_place_and_what_should_stand_there():
    proof = json.loads(text_of("nf4"))
    proof["statements"][1]["cells"][3]["points"][1][0] = "7"
    with pytest.raises(Rejected) as caught:
        check(load("nf4"), json.dumps(proof))
    assert caught.value.where == "statements[1].cells[3].points[1][0]"
    assert "is 7, and should be -" in caught.value.why


def test_a_proof_of_another_format_is_rejected_by_its_hash_and_by_its_numbers():
    proof = json.loads(text_of("nf4"))
    fmt = fmtc.load("sh4")
    proof["format"] = fmt.name
    with pytest.raises(Rejected, match="hash"):
        check(fmt, json.dumps(proof))
    proof["hash"] = fmt.content_hash
    with pytest.raises(Rejected, match="statements"):
        check(fmt, json.dumps(proof))


def test_lemmas_must_be_those_that_are_asked_for():
    lemma = ("monotone", "x / (1 + x) rises", "proved")
    proof = json.loads(text_of("nf4"))
    with pytest.raises(Rejected, match="lemmas"):
        check(load("nf4"), json.dumps(proof), [lemma])
    proof["lemmas"] = [list(lemma)]
    check(load("nf4"), json.dumps(proof), [lemma])
    with pytest.raises(Rejected, match="lemmas"):
        check(load("nf4"), json.dumps(proof))
    with pytest.raises(Rejected, match=r"lemmas\[0\]\[2\]"):
        check(load("nf4"), json.dumps(proof), [(*lemma[:2], "not proved")])


def test_a_grid_of_one_sign_has_no_bound():
    fmt = compile_text("format a { block 4 grid ue2m1 scale fp32 }")
    with pytest.raises(Rejected, match="one sign"):
        check(fmt, json.dumps(header(fmt)))


def header(fmt):
    """A proof without statements."""
    return {
        "schema": 1,
        "format": fmt.name,
        "hash": fmt.content_hash,
        "statements": [],
        "lemmas": [],
    }


@pytest.mark.parametrize("name", ["nf4", "mxfp4", "four_six"])
def test_a_proof_that_says_nothing_is_rejected(name):
    with pytest.raises(Rejected, match="absmax/normal/rounding"):
        check(fmtc.load(name), json.dumps(header(fmtc.load(name))))


# -- witnesses -----------------------------------------------------------------------------


def with_witness(name, place, witness):
    """A proof whose statement at a place has a witness."""
    proof = json.loads(text_of(name))
    proof["statements"][place]["witness"] = witness
    return json.dumps(proof)


def witness_of(fmt, element):
    """Ones and a half in one block."""
    numbers = [1.0] * (fmt.block - 1) + [0.5]
    return {
        "shape": [1, fmt.block],
        "runs": [[(1.0).hex(), fmt.block - 1], [(0.5).hex(), 1]],
        "block": [0, 1, 0, fmt.block],
        "element": element,
        "digest": hashlib.sha256(struct.pack(f"<{len(numbers)}f", *numbers)).hexdigest(),
        "reached": "1/2",
    }


def test_a_witness_must_be_a_tensor_and_its_digest():
    fmt = load("lost")
    text = with_witness("lost", 0, witness_of(fmt, [0, 1]))
    check(fmt, text)
    proof = json.loads(text)
    changes = mutants(witness_of(fmt, [0, 1]), ("statements", 0, "witness"))
    kept = survivors_among(fmt, proof, changes)
    assert kept
    assert all(SEEN & set(path) for path in kept)


@pytest.mark.parametrize("value", ["inf", "nan", "1.0", "0x1.8p+1", "0x1.0000000000001p+0", ""])
def test_a_witness_holds_finite_binary32_numbers(value):
    fmt = load("lost")
    witness = witness_of(fmt, [0, 0])
    witness["runs"][0][0] = value
    with pytest.raises(Rejected, match=r"witness\.runs\[0\]\[0\]"):
        check(fmt, with_witness("lost", 0, witness))


# -- the checker's own reading -------------------------------------------------------------


def test_the_checker_imports_nothing_that_derives_proofs():
    allowed = {"exact", "floats", "format"}
    rooms = {path.stem for path in CHECKER.glob("*.py")}
    assert len(rooms) > 5
    for path in CHECKER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert {a.name for a in node.names} <= {"hashlib", "json", "re", "struct"}, path
            elif isinstance(node, ast.ImportFrom) and node.level:
                module = node.module or ""
                assert module in (allowed if node.level == 3 else rooms), (path, module)
                assert node.level in (1, 3), (path, module)
            elif isinstance(node, ast.ImportFrom):
                known = {"bisect", "collections", "dataclasses", "fractions", "functools"}
                known |= {"itertools", "math", "typing", "__future__"}
                assert (node.module or "").split(".")[0] in known, (path, node.module)


@pytest.mark.parametrize(
    ("scale", "regime", "low", "high"),
    [
        ("e8m0 { rule floor_log2 }", "normal", "1", "2"),
        ("e8m0 { rule ceil_log2 }", "normal", "1/2", "1"),
        ("e8m0 { rule even_log2 }", "normal", "7/8", "7/4"),
        ("e8m0 { rule absmax }", "normal", "3/4", "3/2"),
        ("e8m0 { rule absmax  round up }", "normal", "1/2", "1"),
        ("e8m0 { rule absmax  round down }", "least", "0", "2"),
        ("ue4m3 { rule absmax }", "normal", "15/16", "17/16"),
        ("ue4m3 { rule absmax  round up }", "normal", "7/8", "1"),
        ("ue4m3 { rule absmax  underflow zero_block }", "least", "1/2", "3/2"),
        ("ue4m3 { rule absmax  codes wanted }", "least", "1/2", "3/2"),
        ("fp32 { rule absmax }", "normal", "1", "1"),
    ],
)
def test_ratios_of_asked_and_stored_scales_are_known(scale, regime, low, high):
    fmt = compile_text(f"format a {{ block 4 grid e2m1 scale {scale} }}")
    spans = words_of_checker.ratios(fmt, regime)
    assert spans[0][0] == Fraction(low)
    assert spans[-1][1] == Fraction(high)


@pytest.mark.parametrize("rounding", ["even", "up", "down"])
def test_the_table_far_from_both_ends_is_that_of_the_words(rounding):
    fmt = compile_text(f"format a {{ block 4 grid e2m1 scale ue4m3 {{ round {rounding} }} }}")
    words = words_of_checker.stored_scales(fmt)
    for word in words[20:60]:
        inside = (word.low + word.high) / 2
        assert words_of_checker.regular_word(fmt, inside, 0) == word.value
        above = words[words.index(word) + 1].value
        assert words_of_checker.regular_word(fmt, inside, 1) == above


def test_a_tie_of_words_without_mantissa_may_go_either_way():
    fmt = compile_text("format a { block 4 grid e2m1 scale e8m0 { rule absmax } }")
    tie = [words_of_checker.regular_word(fmt, Fraction(3, 2), 0, odd) for odd in (False, True)]
    assert sorted(tie) == [1, 2]
    assert words_of_checker.regular_word(fmt, Fraction(3, 4), 0, True) == tie[0] / 2
