"""The content hash: pinned, blind to spelling, and changed by every knob; and immutability."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path

import fmtc
import pytest
from fmtc import compile_text
from fmtc.compiler import format as compiled
from fmtc.compiler.choices import choices
from fmtc.compiler.vocabulary import FLOAT_KNOBS, FORMAT_KNOBS, INTEGER_KNOBS, SCALE_KNOBS

HERE = Path(__file__).parent

#: The content hash of every shipped format. A change here is a change of what files mean:
#: say why in CHANGELOG.md, and raise SEMANTICS_VERSION if the same text means something else.
PINNED = json.loads((HERE / "golden" / "hashes.json").read_text())


def test_shipped_formats_keep_their_pinned_hash() -> None:
    assert {name: fmtc.load(name).content_hash for name in fmtc.names()} == PINNED


def shipped_text(name: str) -> str:
    return Path(fmtc.formats.find(name)).read_text()


#: Formats whose texts stand alone: no imports, no base.
ALONE = [name for name in PINNED if not re.search(r"^import|extends", shipped_text(name), re.M)]


def bare_text(text: str) -> str:
    """A .fmt text without its comments (no shipped one has a # in a string)."""
    return re.sub(r"#.*", "", text)


@pytest.mark.parametrize("name", ALONE)
def test_comments_titles_sources_and_blanks_do_not_enter_the_hash(name: str) -> None:
    text = shipped_text(name)
    squeezed = re.sub(r"\s+", " ", bare_text(text))
    assert compile_text(squeezed).content_hash == PINNED[name]
    spread = re.sub(
        r'[{},](?=(?:[^"\n]*"[^"\n]*")*[^"\n]*$)',
        r"\n\g<0> # a remark\n\t",
        bare_text(text),
        flags=re.M,
    )
    assert compile_text(spread).content_hash == PINNED[name]
    bare = re.sub(r'cite\s+"[^"]*"', "", re.sub(r'(format \w+) "[^"]*"', r"\1", text))
    assert compile_text(bare).content_hash == PINNED[name]


def test_the_spelling_of_numbers_does_not_enter_the_hash() -> None:
    def hashed(block: str, values: str, least: str) -> str:
        return compile_text(
            f"format t {{ block {block}  grid g = codebook 2 {{ {values} }}"
            f"  scale e4m3 {{ min {least} }} }}"
        ).content_hash

    one = hashed("16", "-1, 0, 0.5, 1", "2^-6")
    assert hashed("2 ^ 4", "-1.000, 0.0, 1/2, 1e0", "1/64") == one
    assert hashed("8 + 8", "-(2 - 1), 0 * 7, 5e-1, 3/3", "0.015625") == one


def test_defaults_said_aloud_do_not_enter_the_hash() -> None:
    short = compile_text("format t { block 16  grid e2m1  scale e4m3 }")
    said = compile_text(
        "format t { block 16  grid e2m1 = e2m1 { bias standard  top standard  subnormals standard }"
        "  scale e4m3 { rule absmax  round even  tensor none  shift none  min smallest"
        "  zero_block smallest  container fit  target ends  search 0  signs rule  codes stored"
        "  aim largest  underflow minimum }"
        "  host fp32  tie even  compare exact  overflow saturate  nan error  inf error"
        "  negative_zero keep  pack low_first  tile 1  offset none  error squared }"
    )
    assert said.content_hash == short.content_hash


#: A number that each numeric knob may take here, other than its default.
NUMBERS = {
    "block": "32",
    "shift": "3",
    "min": "2^-5",
    "zero_block": "1",
    "container": "16",
    "bias": "5",
    "tile": "2",
    "search": "1",
    "target": "4",
}

#: Remarks: they are kept and shown, and decide no bit.
REMARKS = {"use", "check", "promote"}

_SMALL = "format t {{ block {} grid i = int 4 scale e4m3 {{ {} }} {} }}"
_RANGE = "format t {{ block 16 grid i = int 4 scale {} }} zero minimum }}"
#: Settings that only go with others: (owner, key, value) -> texts without and with them.
TOGETHER = {
    ("format", "block", "row"): (_SMALL.format(16, "", ""), _SMALL.format("row", "", "")),
    ("format", "block", "tensor"): (_SMALL.format(16, "", ""), _SMALL.format("tensor", "", "")),
    ("format", "offset", "1/2"): (
        _SMALL.format(16, "", "compare fp32_quotient"),
        _SMALL.format(16, "", "compare fp32_quotient offset 1/2"),
    ),
    ("scale", "rule", "range"): (
        _SMALL.format(16, "", ""),
        _SMALL.format(16, "rule range", "zero minimum"),
    ),
    ("scale", "rule", "even_log2"): (
        "format t { block 16 grid e2m1 scale e4m3 }",
        "format t { block 16 grid e2m1 scale e4m3 { rule even_log2 } }",
    ),
    ("scale", "aim", "256"): (
        _SMALL.format(16, "tensor fp32", ""),
        _SMALL.format(16, "tensor fp32 aim 256", ""),
    ),
}

TEMPLATE = (
    "format t {{ {block} grid g = codebook 4 {{ -104, -80, -64, -48, -36, -26, -15, -6, 4, 13, 24, "
    "36, 48, 64, 80, 96 }}  grid f = e2m1 {{ {float} }}  grid i = int 4 {integer}"
    "  scale e4m3 {{ {scale} }}  select 2 bits at field {{ 0: g, 1: f, 2: i }}  {format} }}"
)

#: Knob tables -> the hole of the template that their settings stand in.
OWNERS = {
    "format": FORMAT_KNOBS,
    "scale": SCALE_KNOBS,
    "float": FLOAT_KNOBS,
    "word": FLOAT_KNOBS,
    "integer": INTEGER_KNOBS,
}


def with_setting(owner: str, key: str, value: str) -> str:
    # Bias 0 makes E2M1's values integers, so that every host takes them.
    holes = {"block": "block 16", "float": "bias 0", "integer": "", "scale": "", "format": ""}
    owner = "scale" if owner == "word" else owner
    if key == "block":
        holes["block"] = f"block {value}"
    elif key == "bias":
        holes[owner] = f"bias {value}"
    else:
        holes[owner] += f" {key} {value}"
    if owner == "integer":
        holes[owner] = f"{{ {key} {value} }}"
    return TEMPLATE.format(**holes)


KNOBS = [(owner, key) for owner, knobs in OWNERS.items() for key in knobs if key not in REMARKS]


@pytest.mark.parametrize(("without", "with_it"), TOGETHER.values(), ids=map(str, TOGETHER))
def test_settings_that_go_with_others_change_the_hash(without: str, with_it: str) -> None:
    assert compile_text(without).content_hash != compile_text(with_it).content_hash


@pytest.mark.parametrize("remark", ['use "a"', 'check "b"', "promote knap(0.1)", 'promote "E2M3"'])
def test_remarks_do_not_enter_the_hash(remark: str) -> None:
    one, two = compile_text(_SMALL.format(16, "", "")), compile_text(_SMALL.format(16, "", remark))
    assert one == two
    assert (two.use, two.check, two.promotion) != (one.use, one.check, one.promotion)


@pytest.mark.parametrize(("owner", "key"), KNOBS)
def test_every_knob_is_read_from_the_text_and_changes_the_hash(owner: str, key: str) -> None:
    knob = OWNERS[owner][key]
    # Standard is one of the other words of the same knob. In a grid, ieee and reserved are
    # the same: no code of the top exponent is a number. In a scale word ieee has a NaN.
    same = {"standard", "reserved"} if owner == "float" else {"standard"}
    values = [word for word in knob.words if word not in same]
    values += [NUMBERS[key]] if key in NUMBERS else []
    values = [value for value in values if (owner, key, value) not in TOGETHER]
    hashes = [compile_text(with_setting(owner, key, value)).content_hash for value in values]
    assert len(set(hashes)) == len(values)
    if knob.default in values:
        silent = compile_text(with_setting("format", "block", "16")).content_hash
        assert hashes[values.index(knob.default)] == silent


@pytest.mark.parametrize(("owner", "key"), [k for k in KNOBS if k[0] in ("format", "scale")])
def test_every_choice_is_shown_as_said_or_defaulted(owner: str, key: str) -> None:
    knob = OWNERS[owner][key]
    value = NUMBERS[key] if key in NUMBERS else knob.words[-1]
    name = key if owner == "format" else f"scale.{key}"
    said = {c.knob: c for c in choices(compile_text(with_setting(owner, key, value)))}
    assert said[name].said
    silent = {c.knob: c for c in choices(compile_text(with_setting("format", "block", "16")))}
    assert not silent[name].said or key == "block"
    if key not in NUMBERS:
        assert said[name].value == value


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("block  16", "block  17"),
        ("target 1 ", "target 2 "),
        ("e4m3", "e5m2"),
        ("e4m3", "s1e4m3 { bias 6 }"),
        ("0: nf4, 1: partner", "0: partner, 1: nf4"),
        ("at scale.sign", "at field"),
        ("grid   partner", "grid   other"),
        ("format po2_nf4", "format another"),
    ],
)
def test_what_a_format_means_enters_its_hash(old: str, new: str) -> None:
    text = shipped_text("po2_nf4")
    assert old in text
    changed = text.replace(old, new, 1)
    if new.startswith("s1e4m3"):
        changed = changed.replace("{ bias 6 } { rule", "{ bias 6  rule")
    if new == "grid   other":
        changed = changed.replace("1: partner", "1: other")
    assert compile_text(changed).content_hash != PINNED["po2_nf4"]


def test_formats_are_equal_and_hash_alike_when_their_content_is() -> None:
    one, two = fmtc.load("mxfp4"), compile_text(shipped_text("mxfp4"))
    assert one == two
    assert len({one, two, fmtc.load("nvfp4")}) == 2
    assert one != "mxfp4"


# -- immutability -----------------------------------------------------------------------


def everything_in(value: object) -> Iterator[object]:
    yield value
    if is_dataclass(value):
        for field in fields(value):
            yield from everything_in(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from everything_in(item)


@pytest.mark.parametrize("name", PINNED)
def test_no_part_of_a_format_can_be_changed(name: str) -> None:
    fmt = fmtc.load(name)
    for part in everything_in(fmt):
        assert not isinstance(part, list | dict | set | bytearray)
        if is_dataclass(part):
            field = fields(part)[0].name
            with pytest.raises((FrozenInstanceError, TypeError)):
                setattr(part, field, None)
    assert isinstance(fmt, compiled.Format)
    assert fmt.content_hash == PINNED[name]
