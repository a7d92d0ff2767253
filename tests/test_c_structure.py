"""Formats that differ in values alone share their compiled C."""

from __future__ import annotations

from pathlib import Path

import fmtc
import numpy as np
import pytest
from fmtc.codegen.c import TARGETS, emit_target
from fmtc.codegen.c.products import emit_product_target
from fmtc.codegen.c.structure import Apart, nameless, take_apart
from fmtc.compiler.product import product
from fmtc.runtime.backend import BackendUnavailable
from fmtc.runtime.c_backend import CBackend
from fmtc.runtime.compile_cache import compile_apart, find_compiler, load_apart
from fmtc.runtime.format import Format
from fmtc.runtime.product import PackedRows
from representatives import PLAIN

BASE = "nf4_dd4_ue4m3"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    try:
        find_compiler()
    except BackendUnavailable as reason:
        pytest.skip(str(reason))
    monkeypatch.setenv("FMTC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def moved(step: int) -> Format:
    """The base with two other values and another name, title and source."""
    text = fmtc.load(BASE).source
    for old in ("-0.8125", "0.375"):
        assert text.count(f" {old}") == 1
        text = text.replace(f" {old}", f" {float(old) + step / 64}")
    text = text.replace(f"format {BASE}", f"format moved_{step}").replace(
        'cite   "', f'cite   "{step} '
    )
    return Format.of(fmtc.compile_text(text))


def apart_of(fmt: Format, target: str = "portable") -> Apart:
    plain, chosen = nameless(fmt), next(t for t in TARGETS if t.name == target)
    files = emit_target(plain, chosen) | emit_product_target(plain, chosen)
    return take_apart(plain, files)


@pytest.mark.parametrize("target", [target.name for target in TARGETS])
def test_what_is_shared_tells_neither_name_nor_values(target: str) -> None:
    one, two = (apart_of(moved(step), target) for step in (1, 2))
    assert one.shared == two.shared
    assert one.symbol == two.symbol
    assert one.values != two.values
    assert "const float LUT" in one.values
    assert "const grid GRIDS" in one.values


@pytest.mark.parametrize("name", PLAIN)
def test_the_parts_hold_all_that_the_whole_says(name: str) -> None:
    """Every table is declared where it stood and defined once, with the same values."""
    fmt = nameless(fmtc.load(name))
    for target in TARGETS:
        files = emit_target(fmt, target)
        apart = take_apart(fmt, files)
        whole, shared = "\n".join(files.values()), "\n".join(apart.shared.values())
        for table in ("LUT", "GRIDS"):
            head = next(
                line
                for line in whole.splitlines()
                if line.startswith("static const") and f" {table}[" in line
            )
            declared = head.removeprefix("static const ").split(" = ")[0]
            body = whole.split(head + "\n", 1)[1].split("\n};\n", 1)[0]
            assert f"const {declared};" in shared
            assert body in apart.values
            assert body not in shared


def test_a_second_format_compiles_its_values_alone(cache: Path) -> None:
    x = np.random.default_rng(1).standard_normal((6, 96)).astype(np.float32)
    first = moved(1)
    first.quantize(x, backend="c")
    objects = {path.name for path in cache.glob("*.o")}
    libraries = {path.name for path in cache.glob("*.so")}
    for step in (2, 3):
        fmt = moved(step)
        q, wanted = fmt.quantize(x, backend="c"), fmt.quantize(x, backend="reference")
        assert all(np.array_equal(q.streams[s], wanted.streams[s]) for s in wanted.streams)
        decoded = q.to_float32(backend="c")
        assert np.array_equal(decoded, wanted.to_float32(backend="reference"))
        assert not np.array_equal(decoded, first.quantize(x).to_float32())
    assert {path.name for path in cache.glob("*.o")} == objects
    assert len({path.name for path in cache.glob("*.so")} - libraries) == 2


def test_products_of_formats_that_share_code_are_their_own(cache: Path) -> None:
    rng = np.random.default_rng(2)
    w = rng.standard_normal((8, 96)).astype(np.float32)
    a = rng.standard_normal((3, 96)).astype(np.float32)
    for step in (1, 2):
        fmt = moved(step)
        q = fmt.quantize(w, backend="reference")
        rows = PackedRows(fmt, q.streams, 96, q.level, CBackend(fmt), 1)
        wanted = product(fmt, dict(q.streams), 96, q.level, a)
        assert np.array_equal(rows.product(a), wanted)


def test_an_object_that_was_cut_short_is_compiled_again(cache: Path) -> None:
    apart = apart_of(moved(1))
    compile_apart(apart.shared, {"values.c": apart.values})
    for file in cache.iterdir():
        file.write_bytes(file.read_bytes()[:60])
    again = apart_of(moved(2))
    library = load_apart(again.shared, {"values.c": again.values})
    assert library[f"{again.symbol}_portable_encode"]
