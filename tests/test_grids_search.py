"""SOP's pair search: what it finds, that it may be trusted, and what it writes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fmtc.compiler.reference import TensorLevel
from fmtc.formats import compile_text
from fmtc.runtime.backend import ReferenceBackend
from fmtc.runtime.errors import RefusedInput
from fmtc.runtime.format import Format
from fmtc.runtime.grids.alphabet import atom_names
from fmtc.runtime.grids.metrics import errors_of
from fmtc.runtime.grids.search import Found, SearchOptions, encoder_weights, search_pair

RNG = np.random.default_rng(82)
SMALL = {"sample": 256, "rounds": 3, "search": 0}
NORMS = np.linspace(0.2, 2, 64, dtype=np.float32)


def layer(kind: str, rows: int = 128, length: int = 64) -> np.ndarray:
    rng = np.random.default_rng(5)
    drawn = {
        "gaussian": rng.standard_normal((rows, length)),
        "student": rng.standard_t(4, (rows, length)),
        "laplace": rng.laplace(size=(rows, length)),
        "skewed": rng.gumbel(size=(rows, length)),
    }
    return (0.02 * drawn[kind]).astype(np.float32)


def format_of(found: Found) -> Format:
    return Format.of(compile_text(found.text))


def encoded(fmt: Format, w: np.ndarray, norms: np.ndarray | None = None) -> np.ndarray:
    weights = encoder_weights(fmt, norms)
    q = fmt.quantize(w, backend="reference", weights=weights)
    return q.to_float32(backend="reference")


def loss(w: np.ndarray, y: np.ndarray, norms: np.ndarray | None, metric: str) -> float:
    errors = errors_of(w, y, norms, 16)
    return {"acos": 1 - errors.acos, "mse": errors.nmse, "wmse": errors.wmse}[metric]


@pytest.mark.parametrize(
    ("kind", "metric"),
    [("student", "mse"), ("laplace", "wmse"), *((k, "acos") for k in ("gaussian", "skewed"))],
)
def test_a_pair_errs_no_more_than_the_better_of_its_grids_alone(kind: str, metric: str) -> None:
    w, norms = layer(kind), None if metric == "mse" else NORMS
    found = search_pair([w], norms, SearchOptions(reassign=metric, rank=metric, **SMALL))
    fmt = format_of(found)
    together = loss(w, encoded(fmt, w, norms), norms, metric)
    shift = fmt.quantize(w, backend="reference").level.shift
    for grid in fmt.grids:
        values = ", ".join(str(value) for value in grid.values)
        text = f"grid g = codebook 4 {{ {values} }}  scale ue4m3 {{ shift {shift} }}"
        alone = Format.of(compile_text(f"format alone {{ block 16  host hif7  {text} }}"))
        assert together < loss(w, encoded(alone, w), norms, metric)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reassign": "mse", "rank": "mse"},
        {"reassign": "wmse", "lloyd": "c2"},
        {"reassign": "mse", "pool": "regret", "lloyd": "c"},
        {"pool": "none"},
        {"host": "e4m3"},
        {"host": "fp32", "atoms": ("SH4", "DD4")},
        {"pair": ("NF4", "DD4"), "shares": (10, 90)},
        {"grids": 1},
        {"scale": "S1E5M5", "signs": True, "atoms": ("NF4", "SH4", "DD4")},
        {"scale": "S1E5M5", "rule": "argmax", "atoms": ("BOF4-S", "SH4", "DD4")},
        {"bits": 3, "host": "e4m3"},
        {"search": 1, "reassign": "wmse"},
        {"block": 32, "scale": "FP32", "atoms": ("NF4", "BOF4"), "host": "fp32", "reassign": "mse"},
    ],
    ids=str,
)
def test_every_axis_gives_a_format_that_compiles_and_a_trace_that_never_rises(
    options: dict[str, object],
) -> None:
    w = layer("student")
    made = SearchOptions(**{**SMALL, **options})  # type: ignore[arg-type]
    found = search_pair([w], NORMS, made)
    assert all(a >= b for a, b in zip(found.trace, found.trace[1:], strict=False))
    assert found.tried > 0
    fmt = format_of(found)
    assert fmt.source == found.text
    assert len(fmt.grids) == made.grids == len(found.atoms)
    assert (fmt.hosting is not None) == (made.host == "hif7") or made.host == "e4m3"
    if made.sample >= w.size // made.block:  # every block was looked at
        y = encoded(fmt, w, NORMS)
        errors = errors_of(w, y, NORMS, made.block)
        whole = {"acos": 1 - errors.acos, "mse": errors.nmse, "wmse": errors.wmse}[made.reassign]
        assert found.score == pytest.approx(whole, rel=1e-6)


def test_the_same_layer_gives_the_same_text_and_name() -> None:
    w = layer("laplace")
    one, two = (search_pair([w], NORMS, SearchOptions(**SMALL)) for _ in range(2))
    assert one == two
    name = format_of(one).name
    assert len(name.rsplit("_", 1)[1]) == 8
    assert all(atom.removeprefix("-").lower().replace("-", "_") in name for atom in one.atoms)


def test_mirrored_weights_give_the_mirrored_pair() -> None:
    w = layer("skewed")
    options = SearchOptions(atoms=("NF4", "SH4"), **SMALL)
    one, two = search_pair([w], NORMS, options), search_pair([-w], NORMS, options)
    assert one.score == pytest.approx(two.score, rel=1e-12)
    mirrored = {
        tuple(sorted(-v for v in grid.values if v is not None)) for grid in format_of(one).grids
    }
    assert mirrored == {tuple(sorted(grid.values)) for grid in format_of(two).grids}


def test_a_learned_grid_of_mirrored_weights_is_the_mirrored_one() -> None:
    w = layer("skewed", rows=64)
    options = SearchOptions(pair=("INT4", "DD4"), reassign="mse", **SMALL)
    plain, mirrored = (format_of(search_pair([v], None, options)).grids[1].values for v in (w, -w))
    assert mirrored == tuple(sorted(-value for value in plain))


def test_two_kinds_of_blocks_get_a_grid_each() -> None:
    """Half of the blocks lie on E2M1's values, half on INT4's: the pair loses nothing."""
    e2m1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    one = RNG.choice(e2m1, (128, 16)) * RNG.choice([-1, 1], (128, 16))
    one[:, 0], one[:, 1] = 6, -6
    two = RNG.integers(-7, 8, (128, 16)).astype(float)
    two[:, 0], two[:, 1] = 7, -7
    # Sizes that S1E5M5 holds exactly, since HIF7 has the grids at 120 and at 112.
    w = np.concatenate([one * 20, two * 16]).astype(np.float32)
    named = tuple(name for name in atom_names() if name != "DD4")
    options = SearchOptions(scale="S1E5M5", reassign="mse", atoms=named)
    pair = search_pair([w], None, options)
    assert set(pair.atoms) == {"E2M1", "INT4"}
    assert pair.score < 1e-12
    assert search_pair([w], None, replace(options, grids=1)).score > 1e-3


def test_a_learned_grid_finds_a_cluster_that_no_atom_serves() -> None:
    """Half of the blocks lie on eight equal steps and their mirror images' neighbours."""
    odd = np.array([-120, -112, -104, -96, -88, -80, -72, -64, 64, 72, 80, 88, 96, 104, 112, 120])
    one = RNG.choice(odd, (128, 16)).astype(float)
    one[:, 0], one[:, 1] = 120, -120
    two = RNG.integers(-7, 8, (128, 16)) * 120 / 7
    two[:, 0], two[:, 1] = 120, -120
    w = np.concatenate([one, two]).astype(np.float32) / 120
    found = search_pair([w], None, SearchOptions(scale="S1E5M5", reassign="mse"))
    assert found.atoms == ("INT4", "DD4")
    assert [int(value) for value in format_of(found).grids[1].values] == odd.tolist()


def test_a_signed_scale_mirrors_grids() -> None:
    w = layer("skewed")
    options = {"scale": "S1E5M5", "atoms": ("NF4", "SH4", "DD4"), **SMALL}
    plain = search_pair([w], NORMS, SearchOptions(**options))
    both = search_pair([w], NORMS, SearchOptions(**options, signs=True))
    fmt = format_of(both)
    assert fmt.scale.both_signs
    assert both.score < plain.score
    assert not any(atom.startswith("-") for atom in both.atoms)
    words = fmt.quantize(w, backend="reference", weights=NORMS).streams["scales"]
    backend = ReferenceBackend(fmt)
    assert backend.decode({**fmt.quantize(w).streams}, 64, TensorLevel()).shape == w.shape
    pairs = words.reshape(len(words), -1, 3).astype(int)  # two 12-bit words in three bytes
    first, second = pairs[..., 1] & 8, pairs[..., 2] & 128
    assert first.any()
    assert second.any()
    assert not first.all()


@pytest.mark.parametrize(
    "options",
    [{}, {"reassign": "mse"}, {"scale": "S1E5M5", "signs": True}],
    ids=str,
)
def test_what_is_written_quantizes_alike_in_c_and_in_the_reference(
    options: dict[str, object],
) -> None:
    w = layer("gaussian")
    made = SearchOptions(pair=("SH4", "DD4"), **{**SMALL, **options})  # type: ignore[arg-type]
    fmt = format_of(search_pair([w], NORMS, made))
    assert (
        fmt.policies.error
        == {"acos": "cosine", "mse": "squared", "wmse": "weighted"}[made.reassign]
    )
    weights = encoder_weights(fmt, NORMS)
    one, two = (fmt.quantize(w, backend=name, weights=weights) for name in ("c", "reference"))
    for stream, octets in two.streams.items():
        assert np.array_equal(one.streams[stream], octets)


def test_matrices_of_a_unit_share_one_format_and_have_their_own_shifts() -> None:
    q, k = layer("gaussian"), layer("student", rows=32) / 64
    found = search_pair([q, k], NORMS, SearchOptions(reassign="acos", **SMALL))
    fmt = format_of(found)
    shifts = [fmt.quantize(w, backend="reference", weights=NORMS).level.shift for w in (q, k)]
    assert shifts[1] - shifts[0] in (4, 5, 6, 7)
    total = [1 - errors_of(w, encoded(fmt, w, NORMS), NORMS, 16).acos for w in (q, k)]
    assert found.score == pytest.approx(np.average(total, weights=[4, 1]), rel=0.03)


def test_an_order_that_is_asked_for_is_kept() -> None:
    w = layer("gaussian")
    for pair in (("DD4", "NF4"), ("NF4", "DD4"), ("SH4", "-NF4")):
        assert search_pair([w], None, SearchOptions(pair=pair, **SMALL)).atoms == pair


def test_encoders_get_the_weights_of_their_policy() -> None:
    norms = np.array([1, 2, 3], np.float32)
    made = {
        error: compile_text(f"format f {{ block 3  grid e2m1  scale fp32  error {error} }}")
        for error in ("squared", "weighted", "cosine")
    }
    assert encoder_weights(made["weighted"], norms).tolist() == [1, 4, 9]
    assert encoder_weights(made["cosine"], norms) is norms
    assert encoder_weights(made["squared"], norms) is norms
    assert encoder_weights(made["weighted"], None) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "UE4M4"}, "no room for the bit that selects a grid: take UE4M3"),
        ({"scale": "UE4M3", "signs": True}, "no sign to mirror a grid by: take S1E5M5"),
        ({"scale": "E4M3", "signs": True}, "no room for the bit"),
        ({"scale": "UE4M3", "rule": "argmax"}, "rule argmax needs a signed scale word"),
        ({"scale": "QE4"}, "no scale word"),
        ({"pair": ("NF4", "SH4", "DD4")}, "3 atoms for 2 grids"),
        ({"pair": ("DD4", "-DD4")}, "stands twice"),
        ({"atoms": ("NF5",)}, "no atom of 4 bits is called 'NF5'"),
        ({"host": "hif9"}, "'host' cannot be 'hif9'"),
        ({"rank": "kl"}, "'rank' cannot be 'kl'"),
        ({"shares": (0,)}, "percentages"),
        ({"grids": 3}, "'grids' cannot be 3"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(RefusedInput, match=message):
        SearchOptions(**options)  # type: ignore[arg-type]


def test_weights_that_cannot_be_searched_are_refused() -> None:
    w = layer("gaussian")
    for bad, message in ((w * 0, "not zero"), (w * np.float32(np.nan), "finite")):
        with pytest.raises(RefusedInput, match=message):
            search_pair([bad], None, SearchOptions(**SMALL))
    half = search_pair([w, w * 0], None, SearchOptions(**SMALL))
    assert half.score == search_pair([w], None, SearchOptions(**SMALL)).score
