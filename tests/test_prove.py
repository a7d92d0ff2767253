"""``fmtc prove``: every bound is derived, checked, reached, remembered, and shown."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import fmtc
import numpy as np
import pytest
from commands import run
from fmtc import load, names
from fmtc.compiler.bounds.derive import derive
from fmtc.compiler.bounds.summary import bound_of, bounds_of, dot_products, footnote, rows
from fmtc.compiler.bounds.witness.build import array_of, measured, packed, unit, witness_of
from fmtc.compiler.bounds.witness.measured import outcome, regimes_of
from fmtc.compiler.resolve import compile_text
from fmtc.formats import bounds as shipped
from fmtc.runtime import prove as proving
from fmtc.runtime.format import Format
from fmtc.runtime.prove import ENOUGH, ProofFailed, cache_file, prove
from regenerate import proven_entry
from representatives import EACH_KIND, PLAIN

#: Proofs of more than some seconds: sixteen grids, words of ten mantissa bits, three grids.
TAKES_LONG = {
    "iq4_nl", "block_dialect", "q4_1", "q4_k", "any4", "q5_0", "q8_0", "q4_0", "razer_weights",
    "int4_asym_compressed_tensors", "int4_asym_g128", "int3_asym_g128", "sfp4",
}  # fmt: skip

#: Formats with one way to encode a block: every bound of theirs is attained.
SINGLE = tuple(n for n in PLAIN if n not in ("four_six", "po2_nf4", "sop_pair"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, with a compiled back end that other tests have built."""
    from fmtc.runtime.choose import backend_for

    for name in ("nvfp4", "mxfp4"):
        backend_for(load(name))
    monkeypatch.setenv("FMTC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# -- witnesses ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SINGLE, "e4m3_row", "e4m3_tensor", "e4m3_tile128", "q4_0"])
def test_every_bound_of_a_format_with_one_trial_is_reached(name: str) -> None:
    fmt = load(name)
    for statement in derive(fmt).statements:
        witness = witness_of(fmt, statement)
        assert witness is not None, statement.name
        assert witness.reached >= ENOUGH, statement.name
        if statement.bound:
            assert witness.reached <= 1 + statement.slack / statement.bound, statement.name


#: Bounds that no known input comes near: the worst of several ways to encode is never the best.
FAR = {
    "block_dialect": {"least/least/any"},
    "four_six": {"absmax/subnormal/clipping", "least/least/any"},
    "iq4_nl": {"absmax/subnormal/clipping", "least/least/any", "block/regular/any"},
    "mixfp4": {"absmax/subnormal/rounding", "least/least/any"},
    "po2_nf4": {"least/least/any"},
    "po2_sh4": {"least/least/any"},
    "q4_1": {"absmax/subnormal/rounding", "block/subnormal/any"},
    "q4_k": {
        "group/subnormal/rounding", "group/subnormal/clipping", "group_block/subnormal/any"
    },
    "razer_weights": {"least/least/any"},
    "sfp4": {"absmax/subnormal/rounding", "least/least/any"},
    "sop_pair": {"absmax/subnormal/rounding", "absmax/subnormal/clipping", "least/least/any"},
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in TAKES_LONG else ()) for n in names()],
)
def test_every_shipped_format_is_proven_and_its_bounds_are_reached(name: str) -> None:
    proven = prove(load(name), fresh=True)
    assert proven.short == ()
    far = {b.name for b in proven.bounds if b.bound and (b.reached or 0) < ENOUGH}
    assert far == FAR.get(name, set())


#: Formats of one's own that the library has nothing like.
OWN = {
    "pair": "block 32 grid a = e2m1 grid b = int 4 { range full } "
    "scale ue5m3 select 1 bit at field { 0: a, 1: b }",
    "stored": "block 64 grid nf = codebook 2 { -1, 0, 0.5, 1 } "
    "scale fp32 { rule absmax over row } as { block 16 grid s = int 8 scale fp32 { rule absmax } }",
    "point": "block 32 grid a = int 4 { range unsigned } scale bf16 { rule range } zero point",
    "minimum": "block 32 grid a = int 2 { range unsigned } scale fp16 { rule range } "
    "zero minimum { word fp16 }",
    "search": "block 16 grid e2m1 scale e4m3 { rule absmax search 2 tensor fp32 }",
    "alone": "block 1 grid e2m1 scale ue4m3",
}


@pytest.mark.parametrize("name", OWN)
def test_formats_of_ones_own_are_proven(name: str) -> None:
    proven = prove(compile_text(f"format mine {{ {OWN[name]} }}", "mine.fmt"), fresh=True)
    assert proven.short == ()
    assert len(proven.bounds) >= 2


@pytest.mark.parametrize("name", ["nvfp4", "hif7_s1e5m5", "four_six", "e4m3_row", "split87"])
def test_a_packed_block_sees_the_second_level_that_is_promised(name: str) -> None:
    fmt = load(name)
    size = fmt.block if fmt.extent == "block" else 40
    block = np.linspace(-1, 1, size).astype(np.float32)
    witness = packed(fmt, block, 3)
    seen = outcome(fmt, array_of(witness))
    assert Fraction(float(seen.levels[0])) == unit(fmt)
    top, bottom, left, right = witness.block
    assert np.array_equal(seen.x[top:bottom, left:right].reshape(-1), block)
    assert witness.element == (0, 3)


def test_a_share_is_the_error_over_the_bound_exactly() -> None:
    fmt = load("nvfp4")
    (statement,) = (s for s in derive(fmt).statements if s.name == "absmax/normal/rounding")
    block = np.zeros(16, np.float32)
    block[:2] = 6.0, 4.75  # between 4 and 6, of which 4 is nearer
    witness = packed(fmt, block, 1)
    share = measured(statement, witness, outcome(fmt, array_of(witness)))
    assert share == Fraction(3, 4) / 6 / statement.bound == Fraction(45, 64)


def test_a_share_in_another_regime_is_none_at_all() -> None:
    fmt = load("nvfp4")
    by_name = {s.name: s for s in derive(fmt).statements}
    witness = packed(fmt, np.full(16, 0.7 * 2.0**-9, np.float32), 0)
    seen = outcome(fmt, array_of(witness))
    assert regimes_of(seen)[0, 0] == "least"
    assert measured(by_name["absmax/normal/rounding"], witness, seen) == 0
    assert measured(by_name["least/least/any"], witness, seen) > 0


@pytest.mark.parametrize(
    ("values", "regime"),
    [((0.0,), "zero"), ((6.0,), "normal"), ((6 * 2.0**-8,), "subnormal"), ((1e-5,), "least")],
)
def test_the_regime_of_a_block_is_that_of_its_stored_scale(
    values: tuple[float], regime: str
) -> None:
    fmt = load("nvfp4")
    seen = outcome(fmt, array_of(packed(fmt, values * 16)))
    assert regimes_of(seen)[0, 0] == regime


def test_a_block_past_the_largest_scale_is_saturated() -> None:
    fmt = load("nvfp4_one_level")
    seen = outcome(fmt, np.array([[6 * 448.0] * 16 + [6 * 500.0] * 16], np.float32))
    assert regimes_of(seen).tolist() == [["normal", "saturated"]]


def test_a_witness_whose_numbers_were_changed_is_refused() -> None:
    from dataclasses import replace

    witness = packed(load("mxfp4"), [1.0] * 32)
    changed = replace(witness, runs=(((1.5).hex(), 32),))
    with pytest.raises(ValueError, match="digest"):
        array_of(changed)
    with pytest.raises(ValueError, match="31 elements"):
        array_of(replace(witness, runs=((float(1).hex(), 31),)))


# -- proofs and their cache --------------------------------------------------------------------


def test_a_proof_is_derived_once_and_then_read(cache: Path) -> None:
    fmt = load("nvfp4")
    first, second = prove(fmt), prove(fmt)
    assert (first.cached, second.cached) == (False, True)
    assert (first.text, first.bounds) == (second.text, second.bounds)
    assert second.seconds == first.seconds
    assert cache_file(fmt).parent == cache / "proofs"
    assert first.short == ()
    assert not prove(fmt, fresh=True).cached


def test_a_damaged_cache_is_derived_anew_and_mended(cache: Path) -> None:
    fmt = load("mxfp4")
    prove(fmt)
    file = cache_file(fmt)
    sound = file.read_text()
    for old, new in (
        ('"bound":"1/5"', '"bound":"1/6"'),
        ('"reached":"', '"reached":"2'),
        (fmt.content_hash, "0" * 64),
        ('"seconds"', '"moments"'),
        (sound, sound[: len(sound) // 2]),
        (sound, "[1, 2]"),
    ):
        assert old in sound
        file.write_text(sound.replace(old, new, 1))
        again = prove(fmt)
        assert not again.cached
        assert json.loads(file.read_text())["proof"] == json.loads(again.text)
    assert prove(fmt).cached


def test_a_number_of_a_witness_that_was_changed_is_seen(cache: Path) -> None:
    fmt = load("mxfp4")
    prove(fmt)
    kept = json.loads(cache_file(fmt).read_text())
    runs = kept["proof"]["statements"][0]["witness"]["runs"]
    runs[0][0] = math.nextafter(float.fromhex(runs[0][0]), 0).hex()
    cache_file(fmt).write_text(json.dumps(kept))
    assert not prove(fmt).cached


def test_a_cache_that_cannot_be_written_costs_only_time(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(proving, "write_atomically", refuse)
    assert not prove(load("mxfp4")).cached
    assert not prove(load("mxfp4")).cached


def test_two_processes_may_prove_at_once(cache: Path) -> None:
    code = "import fmtc; from fmtc.runtime.prove import prove; print(prove(fmtc.load('fp4')).text)"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "FMTC_CACHE": str(cache)},
            cwd=Path(fmtc.__file__).parents[1],
        )
        for _ in range(2)
    ]
    texts = {process.communicate(timeout=120)[0].strip() for process in runs}
    assert all(process.returncode == 0 for process in runs)
    assert len(texts) == 1
    found = prove(load("fp4"))
    assert found.cached
    assert texts == {found.text}


@pytest.mark.parametrize(
    ("factor", "why"),
    [(Fraction(99, 100), "errs by 1.0101"), (Fraction(101, 100), "bound: is .*, and should be")],
)
def test_a_wrong_bound_fails(
    cache: Path, monkeypatch: pytest.MonkeyPatch, factor: Fraction, why: str
) -> None:
    monkeypatch.setattr(proving, "_derived", lambda fmt: wrong_proof(fmt, factor))
    with pytest.raises(ProofFailed, match=why):
        prove(load("mxfp4"))
    assert not cache_file(load("mxfp4")).exists()


def wrong_proof(fmt: Format, factor: Fraction) -> object:
    """A proof whose first bound is not what it should be."""
    from dataclasses import replace

    from fmtc.compiler.bounds.derive import proved
    from fmtc.compiler.bounds.witness.build import witnessed

    proof = witnessed(fmt, proved(fmt))
    first = proof.statements[0]
    wrong = replace(first, bound=first.bound * factor)
    return replace(proof, statements=(wrong, *proof.statements[1:]))


def test_a_bound_above_the_supremum_falls_short(cache: Path) -> None:
    found = prove(load("mxfp4"))
    from dataclasses import replace

    far = replace(found.bounds[0], reached=0.97)
    assert replace(found, bounds=(far, *found.bounds[1:])).short == (far.name,)
    loose = replace(far, tight=False)
    assert replace(found, bounds=(loose, *found.bounds[1:])).short == ()


# -- what is said ------------------------------------------------------------------------------


def test_what_is_said_of_nvfp4() -> None:
    fmt = load("nvfp4")
    bounds = bounds_of(derive(fmt))
    said = {row["name"]: row for row in rows(fmt, bounds)}
    first = said["absmax/normal/rounding"]
    assert (first["exact"], first["unit"]) == ("8/45", "absmax of its block")
    assert first["where"] == "e4m3 scale normal"
    assert said["absmax/subnormal/rounding"]["where"] == "e4m3 scale subnormal"
    assert said["least/least/any"]["where"] == "below the least e4m3 scale"
    assert said["block/normal/any"]["short"] == "323/675"
    assert "binary32" in footnote(bounds)


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4", "nf4", "e4m3_row", "e4m3_tile128", "four_six"])
def test_dot_products_miss_no_more_than_is_said(name: str) -> None:
    fmt = load(name)
    found = dot_products(fmt, bounds_of(derive(fmt)))
    assert found is not None
    rng = np.random.default_rng(8)
    w = rng.standard_normal((fmt.tile, 512)).astype(np.float32)
    decoded = fmt.quantize(w).dequantize()
    error = np.abs(w.astype(np.float64) - decoded)
    # The worst activations have the signs and the sizes of the errors.
    missed = np.sqrt((error**2).sum(axis=1))
    assert (missed <= found["row"] * np.sqrt(512) * np.abs(w).max()).all()
    if found["block"] is not None:
        blocks = (error.reshape(fmt.tile, -1, fmt.block) ** 2).sum(axis=2)
        peaks = np.abs(w).reshape(fmt.tile, -1, fmt.block).max(axis=(0, 2))
        assert (np.sqrt(blocks) <= found["block"] * peaks).all()


def test_slack_is_rounded_up_and_shares_down() -> None:
    for statement, bound in zip(
        (statements := derive(load("nf4")).statements), bounds_of(derive(load("nf4"))), strict=True
    ):
        assert Fraction(bound.slack) >= statement.slack * (1 - Fraction(1, 1 << 50))
        assert bound.slack <= float(statement.slack) * 1.0001
    assert len(statements) > 3


# -- the shipped bounds ------------------------------------------------------------------------


def test_the_shipped_bounds_are_of_the_formats_as_they_are() -> None:
    entries = shipped.shipped_entries()
    assert set(entries) <= set(names())
    for name, entry in entries.items():
        assert entry["hash"] == load(name).content_hash, name
        bounds = [bound_of(stated) for stated in entry["statements"]]
        assert [bound.as_json() for bound in bounds] == entry["statements"]
        assert shipped.shipped_bounds(load(name)) == tuple(bounds)
    assert shipped.entry_text(entries) == shipped.FILE.read_text(encoding="utf-8")


def test_every_shipped_format_has_bounds() -> None:
    assert set(shipped.shipped_entries()) == set(names())


def test_bounds_are_not_taken_for_those_of_another_format_of_the_name() -> None:
    other = compile_text("format nvfp4 { block 32  grid e2m1  scale e4m3 }")
    assert shipped.shipped_bounds(other) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH_KIND)
def test_the_shipped_bounds_are_what_is_proven_today(name: str) -> None:
    entry = proven_entry(name, fresh=True)
    assert entry is not None
    assert entry["statements"] == shipped.shipped_entries()[name]["statements"]


# -- the command line --------------------------------------------------------------------------


def test_prove_prints_what_holds_where_and_how_much_of_it_is_reached(cache: Path) -> None:
    done = run("prove", "nvfp4")
    assert done.exit_code == 0
    assert "11 bounds derived and checked" in done.output
    line = next(line for line in done.output.split("\n") if "8/45" in line)
    assert "e4m3 scale normal" in line
    assert "absmax of its block" in line
    assert "99.99 %" in line
    assert "|w.x - w'.x| <= 0.6918" in done.output
    assert "read from the cache and checked again" in run("prove", "nvfp4").output
    assert "derived and checked" in run("prove", "nvfp4", "--fresh").output


def test_prove_writes_proofs_and_json(cache: Path, tmp_path: Path) -> None:
    done = run("prove", "mxfp4", "fp4", "--json", "-o", tmp_path / "proofs")
    assert done.exit_code == 0
    stated = json.loads(done.output)
    assert [entry["format"] for entry in stated] == ["mxfp4", "fp4"]
    assert stated[0]["statements"][0]["exact"] == "1/5"
    assert stated[0]["statements"][0]["reached"] > 0.999
    for name in ("mxfp4", "fp4"):
        proof = json.loads((tmp_path / "proofs" / f"{name}.proof.json").read_text())
        assert proof["hash"] == load(name).content_hash
        assert all(s["witness"]["digest"] for s in proof["statements"])


def test_prove_of_a_wrong_proof_is_a_failure(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proving, "_derived", lambda fmt: wrong_proof(fmt, Fraction(101, 100)))
    done = run("prove", "mxfp4", "fp4")
    assert done.exit_code == 1
    assert "FAILED mxfp4: the proof of 'mxfp4' is wrong" in done.stderr
    assert run("prove", "nosuch").exit_code == 2


def test_show_prints_the_worst_case(mine: Path) -> None:
    for name in ("nvfp4", str(mine)):
        done = run("show", name)
        assert done.exit_code == 0
        assert "worst case" in done.output
        assert "8/45" in done.output
        assert "dot product over 16 elements" in done.output
        sheet = json.loads(run("show", name, "--json").output)
        assert sheet["bounds"]["statements"][0]["exact"] == "8/45"
        assert sheet["bounds"]["dot_product"]["block"] > 0.69


def test_show_says_why_nothing_is_proven(
    mine: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fmtc.compiler.bounds.proof import Unproven

    def refuse(*_: object) -> None:
        raise Unproven("its blocks have no absmax")

    monkeypatch.setattr("fmtc.compiler.bounds.derive.derive", refuse)
    done = run("show", mine)
    assert done.exit_code == 0
    assert "nothing is proven: its blocks have no absmax" in done.output
    assert json.loads(run("show", mine, "--json").output)["bounds"]["statements"] == []
    assert not (cache / "proofs").exists()
