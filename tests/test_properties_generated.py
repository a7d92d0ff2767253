"""Formats that nobody wrote by hand: every property, on every back end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fmtc import BackendUnavailable, compile_text
from fmtc.compiler.format import Format
from fmtc.runtime.backend import Backend, ReferenceBackend
from fmtc.runtime.choose import backend_for
from fmtc.runtime.verify import checks, generate, properties
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

GENERATED = settings(
    deadline=None,
    database=None,
    derandomize=True,
    report_multiple_bugs=False,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    max_examples=10,
    suppress_health_check=list(HealthCheck),
)
MANY = settings(GENERATED, max_examples=60, derandomize=False)
KINDS = pytest.mark.parametrize("kind", generate.KINDS)


def try_a_format(data: st.DataObject, kind: str, examples: int = 1) -> None:
    """Everything that holds of a format, on the reference."""
    fmt = compile_text(data.draw(generate.formats((kind,))))
    backend = ReferenceBackend(fmt)
    properties.check_fixed(fmt, backend, quick=True)
    for _ in range(examples):
        case = data.draw(properties.cases(fmt, backend))
        for name in properties.PROPERTIES:
            properties.check_case(name, case)


@KINDS
@GENERATED
@given(data=st.data())
def test_a_generated_format_has_every_property(data: st.DataObject, kind: str) -> None:
    try_a_format(data, kind)


@pytest.mark.slow
@KINDS
@MANY
@given(data=st.data())
def test_hundreds_of_generated_formats_have_every_property(data: st.DataObject, kind: str) -> None:
    try_a_format(data, kind, examples=3)


# -- back ends against the reference --------------------------------------------------------


def made(fmt: Format, name: str) -> Backend | None:
    """The back end, or None where it cannot express the format."""
    try:
        return backend_for(fmt, name)
    except BackendUnavailable as reason:
        if "triton:" not in str(reason):
            pytest.skip(f"skipped: {reason}")
        return None


def compare_backends(data: st.DataObject, kind: str, name: str) -> None:
    """A back end stores the reference's bytes and reads its bits, on a generated format."""
    fmt = compile_text(data.draw(generate.formats((kind,))))
    backend = made(fmt, name)
    if backend is None:
        return
    checks.decode_is_exact(fmt, backend, 60)
    checks.ties_are_exact(fmt, backend, 300)
    case = data.draw(properties.cases(fmt, backend))
    for x in (case.x, case.moderate):
        weights = case.weights if x is case.x else None
        checks.encode_agrees(fmt, backend, x, checks.calibrate(fmt, x), weights)


@KINDS
@settings(GENERATED, max_examples=4, phases=[Phase.generate])
@given(data=st.data())
def test_c_stores_the_references_bytes_of_a_generated_format(
    data: st.DataObject, kind: str
) -> None:
    compare_backends(data, kind, "c")


@pytest.mark.parametrize("kind", ["plain", "tried", "zero"])
@settings(GENERATED, max_examples=1, phases=[Phase.generate])
@given(data=st.data())
def test_triton_stores_the_references_bytes_of_a_generated_format(
    data: st.DataObject, kind: str
) -> None:
    compare_backends(data, kind, "triton")


@pytest.mark.slow
@KINDS
@settings(MANY, max_examples=50)
@given(data=st.data())
def test_c_stores_the_references_bytes_of_hundreds_of_formats(
    data: st.DataObject, kind: str
) -> None:
    compare_backends(data, kind, "c")


@pytest.mark.slow
@KINDS
@settings(MANY, max_examples=8)
@given(data=st.data())
def test_triton_stores_the_references_bytes_of_many_formats(data: st.DataObject, kind: str) -> None:
    compare_backends(data, kind, "triton")


# -- the properties have something to say ---------------------------------------------------


def test_no_property_is_empty_and_no_part_of_the_language_left_out() -> None:
    seen: set[str] = set()
    about: dict[str, int] = dict.fromkeys(properties.PROPERTIES, 0)

    def collect(kind: str) -> None:
        @settings(GENERATED, max_examples=40, phases=[Phase.generate])
        @given(generate.formats((kind,)))
        def draw(text: str) -> None:
            seen.update(parts(compile_text(text)))

        draw()

    def count(kinds: tuple[str, ...]) -> None:
        @settings(GENERATED, max_examples=120, phases=[Phase.generate])
        @given(st.data())
        def draw(data: st.DataObject) -> None:
            fmt = compile_text(data.draw(generate.formats(kinds)))
            case = data.draw(properties.cases(fmt, ReferenceBackend(fmt)))
            for name, prop in properties.PROPERTIES.items():
                about[name] += 0 if about[name] else prop(case)

        draw()

    for kind in generate.KINDS:
        collect(kind)
    # Draws may be the same in every run: kind by kind they are others than all together.
    for kinds in (tuple(generate.KINDS), *((kind,) for kind in generate.KINDS)):
        if not all(about.values()):
            count(kinds)
    assert seen >= {
        *("absmax", "argmax", "range", "row", "tensor", "tile", "record", "opq", "wr"),
        *("point", "minimum", "stored", "wanted", "targets", "search", "signs both"),
        *("1 grids", "2 grids", "scale.meta", "field", "codebook", "int", "high_first"),
        *("even", "up", "down", "fp32_quotient", "fp32_reciprocal", "offset", "weighted"),
        "cosine",
    }
    assert [name for name, cases in about.items() if not cases] == []


def parts(fmt: Format) -> set[str]:
    """What of the language a format uses."""
    scale, policies = fmt.scale, fmt.policies
    found: set[Any] = {scale.rule, scale.rounding, fmt.extent, fmt.select.place, fmt.order}
    found |= {f"{len(fmt.grids)} grids", policies.compare, policies.tie, policies.error}
    found |= {grid.atom.split()[0] for grid in fmt.grids} | {side.kind for side in fmt.sides}
    flags = {
        "tile": fmt.tile > 1,
        "record": fmt.record is not None,
        "stored": scale.stored is not None,
        "wanted": scale.codes == "wanted",
        "targets": len(scale.targets) > 1,
        "search": scale.search > 0,
        "signs both": scale.both_signs,
        "offset": policies.offset is not None,
    }
    found |= {name for name, used in flags.items() if used}
    return found | ({fmt.zero.kind} if fmt.zero else set())


def test_what_a_power_of_two_below_the_least_scale_becomes_is_said_by_round() -> None:
    for rule in ("floor_log2", "ceil_log2", "even_log2", "round_log2"):
        for rounding in ("even", "up", "down"):
            for word in ("e4m3", "e4m3 { bias 9 }", "e8m0"):
                said = f"rule {rule}  round {rounding}  underflow zero_block  min 3/8"
                said = said if word == "e4m3" else said.removesuffix("  min 3/8")
                name, _, more = word.partition(" { ")
                body = f"{said}  {more.removesuffix(' }')}"
                fmt = compile_text(f"format u {{ block 1  grid e2m1  scale {name} {{ {body} }} }}")
                powers = [2.0**e for e in range(-14, 3)] if name == "e4m3" else [2.0**-126]
                x = np.array([[p * m for p in powers for m in (1, 1.4, 1.75)]], np.float32)
                backend = ReferenceBackend(fmt)
                level = checks.calibrate(fmt, x)
                assert checks.compare_with_oracle(fmt, backend, x, level) == x.size
