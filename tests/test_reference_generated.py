"""The NumPy reference against exact rationals, on formats that nobody wrote by hand."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from fmtc import compile_text
from fmtc.compiler.exact import is_fp32
from fmtc.compiler.floats import SmallFloat, named_float
from fmtc.compiler.format import Format
from fmtc.compiler.hosts import HIF7
from fmtc.compiler.reference import TensorLevel, calibrate
from fmtc.compiler.scales import MAX_TABLE_BITS
from fmtc.runtime.verify import checks
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

F32 = NDArray[np.float32]

# -- formats that Hypothesis writes -----------------------------------------------------

#: Element atoms by width; every convention of a float and an integer is among them.
ATOMS = {
    2: ["e1m0", "ue1m1", "ue2m0", "int 2", "int 2 { range full }", "int 2 { range unsigned }"],
    3: ["e2m0", "e1m1", "ue2m1", "e1m1 { subnormals off }", "int 3", "int 3 { range full }"],
    4: [
        *("e2m1", "e1m2", "e3m0", "ue2m2", "e2m1 { bias 3 }", "e2m1 { top nan }"),
        *("e2m1 { top reserved }", "e1m2 { subnormals off }", "int 4", "int 4 { range full }"),
        "int 4 { range unsigned }",
    ],
    5: ["e2m2", "e3m1", "e2m2 { top ieee }", "int 5 { range full }"],
    6: ["e2m3", "e3m2", "ue3m3"],
}

SIGNED_WORDS = ("e4m3", "e5m2", "s1e5m5", "s1e4m2", "s1e5m4", "e2m5", "e5m6", "e3m1", "fp32")
UNSIGNED_WORDS = ("e8m0", "ue4m3", "ue4m4", "ue5m3", "s0e6m5", "s0e5m5", "ue4m2", "ue1m2", "ue5m2")


@st.composite
def codebooks(draw: st.DrawFn, width: int) -> str:
    """A codebook of dyadic values in any order, some said twice, with a positive and a
    negative one."""
    count = 1 << width
    unit = draw(st.sampled_from(["1", "2^-3", "2^-10", "3/4", "2^20"]))
    least = -1000 if draw(st.booleans()) else -7
    values = draw(st.lists(st.integers(least, 1000), min_size=count - 2, max_size=count - 2))
    values += [draw(st.integers(1, 1000)), draw(st.integers(least, -1))]
    shuffled = draw(st.permutations(values))
    return f"codebook {width} {{ " + ", ".join(f"{v} * {unit}" for v in shuffled) + " }"


def of_word(number: SmallFloat, draw: st.DrawFn) -> str:
    """A value of a scale word from its lower half, as an expression."""
    known = [value for value in number.magnitudes() if value]
    value = draw(st.sampled_from(known[: len(known) // 2 + 1]))
    return f"{value.numerator}/{value.denominator}"


def variants(number: SmallFloat) -> list[SmallFloat]:
    """The float with other tops and biases, as far as binary32 holds the result."""
    tops = ["finite", "nan", "reserved", *(["ieee"] if number.mantissa else [])]
    changed = [
        replace(number, top=top, bias=number.bias + step) for top in tops for step in (-3, 0, 1)
    ]
    return [other for other in changed if any(ends(other)) and all(map(is_fp32, ends(other)))]


def ends(number: SmallFloat) -> list[Fraction]:
    """The least and the largest positive values of a small float."""
    return [m for code in (0, 1) if (m := number.magnitude(code))] + [number.largest]


@st.composite
def scale_clauses(draw: st.DrawFn, place: str, grids: int, mirrors: bool) -> tuple[str, str]:
    """A scale clause, and a select clause that fits it."""
    word = draw(st.sampled_from(SIGNED_WORDS if place == "scale.sign" else ALL_WORDS))
    bits = (grids - 1).bit_length() + draw(st.integers(0, 1)) if place == "field" else 0
    container = ""
    if place == "scale.meta":
        bits, word, container = (grids - 1).bit_length(), *draw(st.sampled_from(META_WORDS))
    number = named_float(word)
    assert number is not None
    table = number.mantissa != 23
    if table and not container:
        container = draw(st.sampled_from(["", "container 12", "container 16"]))
    said = [container]
    if table and draw(st.booleans()):
        changed = draw(st.sampled_from(variants(number)))
        said += [f"top {changed.top}", f"bias {changed.bias}"]
        number = changed
    rules = ["absmax", *(["floor_log2"] if table else [])]
    if number.signed and place != "scale.sign" and mirrors:
        rules.append("argmax")
    said.append(f"rule {draw(st.sampled_from(rules))}")
    if table:
        said.append(f"round {draw(st.sampled_from(['even', 'up', 'down']))}")
        said.append(draw(st.sampled_from(["", "tensor fp32", "shift auto", "shift 3", "shift -5"])))
    if draw(st.integers(0, 3)) == 0:
        said.append(f"min {of_word(number, draw)}" if table else "min 2^-20")
    if draw(st.integers(0, 3)) == 0:
        said.append(f"zero_block {of_word(number, draw)}" if table else "zero_block 1")
    arms = ", ".join(f"{i}: g{i}" for i in range(grids))
    select = f"select {bits or 1} bits at {place} {{ {arms} }}" if grids > 1 else ""
    return f"scale {word} {{ {'  '.join(filter(None, said))} }}", select


ALL_WORDS = SIGNED_WORDS + UNSIGNED_WORDS
#: Scale words with two free bits at least, and the container that makes the room.
META_WORDS = [
    ("s1e5m4", ""),
    ("s0e5m5", ""),
    ("ue4m2", ""),
    ("e4m3", "container 12"),
    ("ue4m4", "container 12"),
    ("e8m0", "container 16"),
    ("e2m5", "container 32"),
]


@st.composite
def format_texts(draw: st.DrawFn, place: str) -> str:
    """A .fmt text: any atoms, one to four grids, any scale word, any policy, block 1..40."""
    width = draw(st.sampled_from([2, 3, 4, 4, 4, 5, 6]))
    counts = {"none": [1], "scale.sign": [2], "scale.meta": [2, 3, 4], "field": [2, 3, 4]}
    count = draw(st.sampled_from(counts[place]))
    atom = st.one_of(codebooks(width), st.sampled_from(ATOMS[width]))
    atoms = draw(st.lists(atom, min_size=count, max_size=count))
    if draw(st.integers(0, 7)) == 0:
        atoms = [draw(hosted(4)) for _ in atoms]
        host = "host hif7"
    else:
        host = ""
    mirrors = not any("unsigned" in atom or atom.startswith("u") for atom in atoms)
    scale, select = draw(scale_clauses(place, count, mirrors))
    policies = [
        host,
        f"block {draw(st.integers(1, 40))}",
        f"tie {draw(st.sampled_from(['even', 'down', 'up', 'toward_zero', 'away']))}",
        f"compare {draw(st.sampled_from(['exact', 'fp32_quotient', 'fp32_reciprocal']))}",
        f"negative_zero {draw(st.sampled_from(['keep', 'drop']))}",
        f"pack {draw(st.sampled_from(['low_first', 'high_first']))}",
        f"nan {draw(st.sampled_from(['error', 'zero']))}",
        f"inf {draw(st.sampled_from(['error', 'saturate']))}",
    ]
    grids = "\n  ".join(f"grid g{i} = {text}" for i, text in enumerate(atoms))
    return f"format made {{\n  {grids}\n  {scale}\n  {select}\n  {'  '.join(policies)}\n}}"


@st.composite
def hosted(draw: st.DrawFn, width: int) -> str:
    words = list(HIF7.words())
    values = draw(
        st.lists(st.sampled_from(words), min_size=(1 << width) - 2, max_size=(1 << width) - 2)
    )
    return f"codebook {width} {{ " + ", ".join(map(str, [*values, -80, 72])) + " }"


@st.composite
def rows(draw: st.DrawFn, fmt: Format) -> F32:
    """A matrix of one or two rows, up to two blocks and a remainder long."""
    length = draw(st.integers(1, min(2 * fmt.block + 1, 48)))
    grid = fmt.grids[0]
    ties = [(a + b) / 2 for a, b in zip(grid.numbers, grid.numbers[1:], strict=False)]
    near = st.sampled_from([float(v) for v in (*grid.numbers, *ties)])
    usual = st.floats(-4, 4, width=32)
    anything = st.floats(width=32, allow_nan=False, allow_infinity=False)
    special = st.sampled_from([0.0, -0.0, 1.0, -6.0, 2.0**-126, -(2.0**-149), 3.4028235e38])
    kind = draw(st.sampled_from([near, usual, anything, st.one_of(near, usual, anything, special)]))
    count = draw(st.integers(1, 2))
    values = draw(st.lists(kind, min_size=count * length, max_size=count * length))
    with np.errstate(over="ignore", under="ignore"):
        return np.array(values, np.float64).astype(np.float32).reshape(count, length)


GENERATED = settings(
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # a failing text is short enough to read
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


PLACES = pytest.mark.parametrize("place", ["none", "scale.sign", "scale.meta", "field"])


def try_a_generated_format(data: st.DataObject, place: str) -> None:
    text = data.draw(format_texts(place))
    fmt = compile_text(text)
    checks.text_round_trip(fmt)
    x = data.draw(rows(fmt))
    level = calibrate(fmt, x)
    checks.compare_with_oracle(fmt, x, level)
    # The second level of another tensor: scales saturate, or fall below the least one.
    checks.compare_with_oracle(fmt, x, other_level(fmt))
    checks.decode_is_exact(fmt, limit=400)


def other_level(fmt: Format) -> TensorLevel:
    if fmt.scale.tensor == "fp32":
        return TensorLevel(tensor_scale=float(np.float32(0.0123456789)))
    return TensorLevel(shift=7 if fmt.scale.shift is None else fmt.scale.shift)


@PLACES
@GENERATED
@given(data=st.data())
def test_generated_formats_encode_and_decode_as_exact_rationals_say(
    data: st.DataObject, place: str
) -> None:
    try_a_generated_format(data, place)


@pytest.mark.slow
@PLACES
@settings(GENERATED, max_examples=1000, derandomize=False)
@given(data=st.data())
def test_thousands_of_generated_formats_agree_with_exact_rationals(
    data: st.DataObject, place: str
) -> None:
    try_a_generated_format(data, place)


@PLACES
@settings(GENERATED, max_examples=8)
@given(data=st.data())
def test_every_tie_of_a_generated_format_is_broken_as_it_says(
    data: st.DataObject, place: str
) -> None:
    checks.ties_are_exact(compile_text(data.draw(format_texts(place))), limit=6)


def test_the_generator_reaches_every_kind_of_format() -> None:
    seen: set[str] = set()

    @settings(GENERATED, max_examples=150)
    @given(st.sampled_from(["none", "scale.sign", "scale.meta", "field"]).flatmap(format_texts))
    def collect(text: str) -> None:
        fmt = compile_text(text)
        seen.update([f"grids {len(fmt.grids)}", fmt.select.place, fmt.scale.rule, fmt.host])
        seen.update([fmt.scale.rounding, fmt.scale.tensor, f"shift {fmt.scale.shift is None}"])
        seen.update([f"tie {fmt.policies.tie}", fmt.policies.compare, fmt.order])
        seen.add(f"container {fmt.scale.word.container}")
        seen.add("zero block" if fmt.scale.zero_block else "zero")
        seen.add("block 1" if fmt.block == 1 else "block")
        seen.update(grid.atom.split()[0] for grid in fmt.grids)
        checks.packing_round_trip(fmt)

    collect()
    assert seen >= {
        *("grids 1", "grids 2", "grids 3", "grids 4"),
        *("none", "field", "scale.sign", "scale.meta"),
        *("absmax", "argmax", "floor_log2", "even", "up", "down"),
        *("fp32", "hif7", "shift True", "shift False"),
        *("tie even", "tie down", "tie up", "tie toward_zero", "tie away"),
        *("exact", "fp32_quotient", "fp32_reciprocal", "low_first", "high_first"),
        *("container 8", "container 12", "container 16", "container 32"),
        *("zero block", "zero", "block 1", "block", "codebook", "int", "e2m1"),
    }


def test_scale_words_up_to_the_table_limit_are_exact() -> None:
    word = f"ue5m{MAX_TABLE_BITS - 5}"
    fmt = compile_text(f"format wide {{ block 4  grid e2m1  scale {word} }}")
    x = np.random.default_rng(0).standard_normal((20, 12), dtype=np.float32)
    assert checks.compare_with_oracle(fmt, x, TensorLevel()) == x.size
