"""The analytic model against synthesis: within 15 %, on formats that it never saw as well."""

from __future__ import annotations

import pytest
from fmtc.codegen.design import design_of
from fmtc.formats import load
from fmtc.runtime.backend import BackendUnavailable
from fmtc.runtime.rtl import analytic, calibrate, tools
from fmtc.runtime.rtl.analytic import FITTED_ON, HELD_OUT, blocks, estimate, fit, table_complexity
from fmtc.runtime.rtl.measure import Bench, lane_design

#: What the model is held to.
WITHIN = 0.15

#: Synthesized in every run: one that was fitted, and two that were not.
FEW = (("nf4_hif7", ""), ("nvfp4", ""), ("nvfp4", "mxint8"))


@pytest.fixture(scope="module")
def bench() -> Bench:
    try:
        tools.require("yosys", "sta")
        return calibrate.calibration_bench()
    except BackendUnavailable as reason:
        pytest.skip(str(reason))


def compare(weights: str, activations: str, bench: Bench) -> None:
    found = calibrate.sample(weights, activations, bench)
    guess = estimate(found.design)
    assert guess.area == pytest.approx(found.area, rel=WITHIN)
    assert guess.delay == pytest.approx(found.delay, rel=WITHIN)


@pytest.mark.parametrize(("weights", "activations"), FEW)
def test_the_model_is_near_synthesis(weights: str, activations: str, bench: Bench) -> None:
    compare(weights, activations, bench)


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "activations"), [*FITTED_ON, *HELD_OUT])
def test_the_model_is_near_synthesis_everywhere(
    weights: str, activations: str, bench: Bench
) -> None:
    compare(weights, activations, bench)


def test_the_few_hold_formats_that_were_not_fitted() -> None:
    assert not set(FITTED_ON) & set(HELD_OUT)
    assert len(set(FEW) & set(HELD_OUT)) >= 2
    assert set(FEW) <= {*FITTED_ON, *HELD_OUT}


def test_a_fit_finds_the_coefficients_that_made_the_figures() -> None:
    rows = [{"a": float(a), "b": float(b)} for a, b in ((1, 2), (3, 1), (5, 7), (2, 2))]
    found = fit(rows, [3 * row["a"] + 0.5 * row["b"] for row in rows])
    assert found == pytest.approx({"a": 3, "b": 0.5}, rel=1e-4)


def test_no_coefficient_is_negative() -> None:
    found = fit([{"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 2.0}], [2.0, 1.0])
    assert min(found.values()) >= 0


def test_a_table_that_copies_its_code_costs_nothing() -> None:
    assert table_complexity(lane_design(load("mxint8")).weights) < 8
    assert table_complexity(lane_design(load("nf4_hif7")).weights) > 8


def test_wider_words_cost_more() -> None:
    narrow, wide = (lane_design(load(name), load(name)) for name in ("mxfp4", "mxfp8_e4m3"))
    assert all(blocks(narrow)[name] <= blocks(wide)[name] for name in ("multiplier", "shifter"))
    assert estimate(narrow).area < estimate(wide).area
    assert estimate(narrow).energy < estimate(wide).energy


def test_twice_the_lanes_are_nearly_twice_the_area() -> None:
    fmt = load("mxfp4")
    few, many = estimate(lane_design(fmt)), estimate(design_of(fmt))
    assert 1.8 < many.area / few.area < 2.3
    assert sum(many.parts.values()) == pytest.approx(many.area)


def test_the_model_names_itself() -> None:
    assert analytic.CALIBRATED_ON in analytic.NAME
    assert "analytic" in analytic.NAME
