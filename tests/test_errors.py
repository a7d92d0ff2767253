from __future__ import annotations

import os
import random
import re
from fractions import Fraction
from itertools import product
from pathlib import Path

import fmtc
import numpy as np
import pytest
from fmtc import FormatError, compile_text, formats
from fmtc.compiler.exact import show_number
from fmtc.compiler.report import CODES
from fmtc.compiler.view import view_of
from fmtc.compiler.vocabulary import FLOAT_KNOBS, FORMAT_KNOBS, SCALE_KNOBS, SELECT_PLACES
from fmtc.dsl.diagnostics import Diagnostic
from fmtc.runtime.format import Format

BAD = Path(__file__).parent / "bad"
FORMATS = [
    path
    for path in (formats.find(name) for name in fmtc.names())
    if not re.search(r"^import|extends", path.read_text(encoding="utf-8"), re.MULTILINE)
]
#: Faults of meaning in files that name no others.
FILES = sorted(
    path
    for path in BAD.glob("*.fmt")
    if path.stem.partition("_")[0] not in ("syntax", "import", "extends", "near")
)


def faults_of(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(FormatError) as caught:
        compile_text(text)
    return caught.value.diagnostics


def compiled_or_faults(text: str) -> Format | tuple[Diagnostic, ...]:
    try:
        return Format.of(compile_text(text))
    except FormatError as error:
        return error.diagnostics


def the_fault_of(text: str) -> Diagnostic:
    faults = faults_of(text)
    assert len(faults) == 1, [fault.message for fault in faults]
    return faults[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_faulty_file_gives_the_report_beside_it(path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        compile_text(path.read_text(encoding="utf-8"), path.name)
    report = f"{caught.value}\n"
    golden = path.with_suffix(".expected")
    if os.environ.get("FMTC_REGEN"):
        golden.write_text(report, encoding="utf-8")
    assert golden.is_file(), f"no {golden.name}; FMTC_REGEN=1 pytest writes it"
    assert report == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_fault_lies_inside_the_text(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")
    for fault in faults_of(text):
        span = fault.span
        assert 1 <= span.line <= len(lines)
        assert 1 <= span.column <= len(lines[span.line - 1]) + 1
        assert (span.end_line, span.end_column) > (span.line, span.column)


def test_faults_stand_in_the_order_of_the_text() -> None:
    faults = faults_of((BAD / "meaning_syntax_and_meaning.fmt").read_text(encoding="utf-8"))
    places = [(fault.span.line, fault.span.column) for fault in faults]
    assert places == sorted(places)
    assert len({fault.code for fault in faults}) >= 6


def test_every_code_of_the_compiler_has_a_bad_file() -> None:
    seen = {fault.code for path in FILES for fault in faults_of(path.read_text(encoding="utf-8"))}
    about_files = {code for code in CODES if code.startswith("E05")}  # see test_import_files
    assert set(CODES) - seen - about_files == set()


def misspellings(word: str) -> list[str]:
    swapped = word[0] + word[2] + word[1] + word[3:] if len(word) > 3 else word
    wrong = {word[:-1], word + "s", word[0] + word[2:], swapped} - {word}
    return sorted(w for w in wrong if len(w) > 2)


# Keys that a swap or a missing letter turns into another key or into nearly another.
@pytest.mark.parametrize(
    ("key", "template"),
    [(key, "format f {{ block 16  grid e2m1  scale e4m3  {} 1 }}") for key in FORMAT_KNOBS]
    + [(key, "format f {{ block 16  grid e2m1  scale e4m3 {{ {} 1 }} }}") for key in SCALE_KNOBS]
    + [
        (key, "format f {{ block 16  grid a = e2m1 {{ {} 1 }}  scale e4m3 }}")
        for key in FLOAT_KNOBS
    ],
)
def test_a_misspelt_key_is_answered_with_the_right_one(key: str, template: str) -> None:
    for wrong in misspellings(key):
        fault = the_fault_of(template.format(wrong))
        assert fault.code == "E0204"
        # "tlie" is as near to tie as to tile.
        meant = "tie" if wrong == "tlie" else key
        assert fault.hint == f"did you mean '{meant}'?", wrong
        assert fault.expected is not None
        assert key in fault.expected


@pytest.mark.parametrize(
    ("key", "word"),
    [(k, word) for k in ("tie", "compare", "nan", "inf", "pack") for word in FORMAT_KNOBS[k].words],
)
def test_a_misspelt_word_is_answered_with_the_right_one(key: str, word: str) -> None:
    for wrong in misspellings(word):
        fault = the_fault_of(f"format f {{ block 16  grid e2m1  scale e4m3  {key} {wrong} }}")
        assert (fault.code, fault.hint) == ("E0205", f"did you mean '{word}'?")


@pytest.mark.parametrize("key", sorted(SCALE_KNOBS))
def test_a_setting_of_the_scale_in_the_format_is_sent_home(key: str) -> None:
    fault = the_fault_of(f"format f {{ block 16  grid e2m1  scale e4m3  {key} 1 }}")
    assert fault.hint == (
        f"'{key}' is a setting of the scale: write it in the braces of the scale clause"
    )


@pytest.mark.parametrize("key", sorted(FORMAT_KNOBS))
def test_a_setting_of_the_format_in_the_scale_is_sent_home(key: str) -> None:
    fault = the_fault_of(f"format f {{ block 16  grid e2m1  scale e4m3 {{ {key} 1 }} }}")
    assert fault.hint == f"'{key}' is a setting of the format: write it outside these braces"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("format f {{ block {}  grid e2m1  scale e4m3 }}", ["0", "-3", "4097", "1e9", "16.25"]),
        ("format f {{ block 16  grid a = int {}  scale e4m3 }}", ["0", "9", "1000"]),
        ("format f {{ block 16  grid e2m1  scale e8m0 {{ shift {} }} }}", ["-127", "127", "0.5"]),
        ("format f {{ block 16  grid a = e2m1 {{ bias {} }}  scale e4m3 }}", ["1.25", "7/3"]),
        ("format f {{ block 16  grid e2m1  scale e4m3 {{ min {} }} }}", ["0", "-1", "1/3", "449"]),
        (
            "format f {{ block 16  grid e2m1  scale e4m3 {{ zero_block {} }} }}",
            ["-1", "0.1", "1e9"],
        ),
        (
            "format f {{ block 16  host hif7  grid a = codebook 1 {{ -4, {} }}  scale e4m3 }}",
            ["121", "0.9", "17", "1/3 + 30"],
        ),
    ],
)
def test_the_value_that_a_hint_names_is_accepted(text: str, wrong: list[str]) -> None:
    for value in wrong:
        fault = the_fault_of(text.format(value))
        assert fault.hint is not None
        nearest = re.search(r"-?[\d.e-]+$", fault.hint)
        assert nearest, fault.hint
        if nearest[0] != "1" or "int" not in text:  # a 1-bit integer has a single value
            compile_text(text.format(nearest[0]))


@pytest.mark.parametrize("path", FORMATS, ids=lambda path: path.stem)
def test_one_slip_gives_one_fault(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for right, wrong in (
        (r"^  block\b", "  blok"),
        (r"\bat scale\.", "at scal."),
        (r"^(  scale +)\w+", r"\1e9m9"),
        (r"= codebook\b", "= codebok"),
        (r"\b1: \w+", "1: nogrid"),
    ):
        slipped = re.sub(right, wrong, text, count=1, flags=re.MULTILINE)
        if slipped != text:
            the_fault_of(slipped)


def test_a_missing_clause_is_not_missed_when_it_is_only_misspelt() -> None:
    assert the_fault_of("format f { blocks 16 grid e2m1 scale e4m3 }").code == "E0204"
    assert the_fault_of("format f { block auto grid e2m1 scale e4m3 }").code == "E0205"


def test_a_fault_elsewhere_does_not_hide_a_gap_in_the_indices() -> None:
    codes = [
        fault.code
        for fault in faults_of(
            "format f { block 0 grid a = e2m1 grid b = int 4 scale e4m3 "
            "select 2 bits at field { 1: a, 3: b } }"
        )
    ]
    assert codes == ["E0302", "E0405"]


@pytest.mark.parametrize("place", SELECT_PLACES)
def test_the_last_word_of_a_place_is_enough_for_a_hint(place: str) -> None:
    last = place.rpartition(".")[2]
    text = f"format f {{ block 8 grid a = e2m1 grid b = int 4 scale e5m5 select 1 bit at {last}"
    if last != place:
        fault = the_fault_of(text + " { 0: a, 1: b } }")
        assert fault.hint == f"did you mean '{place}'?"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("0", "0"),
        ("0.3", "0.3"),
        ("1/3", "1/3"),
        ("1e-10", "1e-10"),
        ("1e39", "1e39"),
        ("-33/2", "-16.5"),
        ("2^-20", "9.5367431640625e-07"),
        ("2^1000", "about 2^1000"),
        ("-3*2^1000", "about -2^1001"),
        ("2^2048*2^2048*2^2048*2^2048*2^2048", "about 2^10240"),
        ("1/(3*10^50)", "about 3.33333e-51"),
    ],
)
def test_numbers_are_shown_short(value: str, shown: str) -> None:
    fault = the_fault_of(f"format f {{ block {value} grid e2m1 scale e4m3 }}")
    assert fault.message == f"a block cannot be {shown}"


def test_a_report_can_be_pickled() -> None:
    import pickle

    with pytest.raises(FormatError) as caught:
        compile_text("format f { block 0 }", "f.fmt")
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.diagnostics == caught.value.diagnostics


def test_damaged_texts_are_refused_and_never_crash() -> None:
    rng = random.Random(20)
    sound = [path.read_text(encoding="utf-8") for path in FORMATS]
    texts = sound * 5 + [path.read_text(encoding="utf-8") for path in FILES]
    pieces = sorted({piece for text in texts for piece in re.findall(r"\w+|\S", text)})
    pieces = [piece for piece in pieces if len(piece) < 40]
    compiled = 0
    for _ in range(400):
        words = re.split(r"(\s+)", rng.choice(texts))
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(words) + 1)
            words[at : at + rng.randint(0, 2)] = [f" {rng.choice(pieces)} "] * rng.randint(0, 2)
        found = compiled_or_faults("".join(words))
        if isinstance(found, Format):
            view_of(found)
            compiled += 1
    assert compiled > 20


ATOMS = (
    [f"{u}e{x}m{y}" for u, x, y in product(("", "u"), range(1, 6), range(5))]
    + ["int 2", "int 4 { range full }", "int 8 { range unsigned }", "hif7", "hif8"]
    + ["codebook 2 { -1, 0, 1/3, 1 }", "codebook 1 { 0, 1 }", "e2m1 { top nan }"]
    + ["e2m1 { subnormals off }", "e3m2 { top reserved  bias 4 }", "e4m2 { top ieee }"]
)
WORDS = [f"{u}e{x}m{y}" for u, x, y in product(("", "u"), range(1, 9), range(8))] + ["fp32"]
KNOBS = [
    [""] * 3 + [f"rule {word}" for word in SCALE_KNOBS["rule"].words],
    [""] * 3 + [f"round {word}" for word in SCALE_KNOBS["round"].words],
    [""] * 4 + ["tensor fp32", "shift auto", "shift -20", "shift 3"],
    [""] * 6 + ["min 1", "min 0.25"],
    [""] * 6 + ["zero_block 1"],
    [""] * 6 + ["container 16", "container 12", "container 32"],
    [""] * 6 + ["bias 0", "bias 30", "bias -10"],
    [""] * 6 + ["top ieee", "top nan", "top reserved", "top finite"],
    [""] * 6 + ["subnormals off", "subnormals on"],
]
CHOICES = [
    [""] * 3 + [f"{key} {word}" for word in FORMAT_KNOBS[key].words]
    for key in ("tie", "compare", "nan", "inf", "negative_zero", "pack")
]


def test_whatever_compiles_also_quantizes() -> None:
    rng = random.Random(7)
    x = np.random.default_rng(7).standard_normal((2, 21)).astype(np.float32)
    compiled = 0
    for _ in range(200):
        settings = " ".join(rng.choice(choices) for choices in KNOBS)
        text = (
            f"format f {{ block {rng.choice([1, 3, 8, 16])}  grid a = {rng.choice(ATOMS)} "
            f"scale {rng.choice(WORDS)} {{ {settings} }} "
            f"{' '.join(rng.choice(choices) for choices in CHOICES)} }}"
        )
        found = compiled_or_faults(text)
        if not isinstance(found, Format):
            assert {fault.code for fault in found} <= set(CODES), text
            continue
        compiled += 1
        q = found.quantize(x, backend="reference")
        assert np.isfinite(q.dequantize(backend="reference")).all(), text
    assert compiled > 50


def test_a_shown_decimal_is_the_number() -> None:
    for numerator, denominator in product(range(-40, 41), (1, 2, 5, 8, 10, 125, 1000, 2**20)):
        value = Fraction(numerator, denominator)
        shown = show_number(value)
        assert Fraction(shown) == value
