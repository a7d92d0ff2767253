"""``fmtc.testing``: formats that are drawn, checks that fail with a text to copy, and its page."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path

import fmtc
import fmtc.testing
import numpy as np
import pytest
from fmtc import FormatError, compile_text
from fmtc.compiler.engine import ReferenceEngine
from fmtc.compiler.format import Format
from fmtc.compiler.kernel import kernel_format
from fmtc.compiler.packing import pack, unpack
from fmtc.runtime.backend import EngineBackend, ReferenceBackend
from fmtc.runtime.verify import generate, properties
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

DRAWN = settings(
    deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
PAGE = Path(fmtc.__file__).parent / "docs" / "testing.md"


# -- strategies -----------------------------------------------------------------------------


def test_more_than_four_in_five_texts_compile_and_the_others_are_refused() -> None:
    drawn: list[bool] = []

    @settings(DRAWN, max_examples=150, phases=[Phase.generate])
    @given(generate.format_texts())
    def count(text: str) -> None:
        with contextlib.suppress(FormatError):
            compile_text(text)
            drawn.append(True)
            return
        drawn.append(False)

    count()
    assert len(drawn) >= 100
    assert sum(drawn) > 0.8 * len(drawn)


@settings(DRAWN, max_examples=15)
@given(st.data())
def test_drawn_formats_quantize_the_tensors_that_are_drawn_for_them(data: st.DataObject) -> None:
    fmt = data.draw(fmtc.testing.formats())
    x = data.draw(fmtc.testing.tensors(fmt))
    weights = data.draw(fmtc.testing.weights(x.shape[1]))
    assert isinstance(fmt, fmtc.Format)
    assert fmtc.compile_text(fmt.source) == fmt
    q = fmt.quantize(x, backend="reference", weights=weights)
    assert q.dequantize().shape == x.shape
    assert np.isfinite(x).all()


@pytest.mark.parametrize("kind", fmtc.testing.KINDS)
def test_a_kind_draws_what_it_says(kind: str) -> None:
    found: list[Format] = []

    @settings(DRAWN, max_examples=8, phases=[Phase.generate])
    @given(fmtc.testing.formats([kind]))
    def collect(fmt: Format) -> None:
        found.append(fmt)

    collect()
    has = {
        "plain": lambda f: f.is_plain,
        "tried": lambda f: f.scale.search or f.scale.both_signs or len(f.scale.targets) > 1,
        "zero": lambda f: f.zero is not None,
        "stored": lambda f: f.scale.stored is not None,
        "whole": lambda f: f.extent != "block" or f.tile > 1,
        "record": lambda f: f.record is not None,
        "side": lambda f: f.sides,
    }
    assert any(has[kind](fmt) for fmt in found)


# -- check ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mxfp4", "four_six", "nf4_dd4_opq_wr"])
def test_a_shipped_format_passes(name: str) -> None:
    assert fmtc.testing.check(fmtc.load(name), backend="reference", examples=3) > 1000


def test_a_tensor_can_be_given() -> None:
    x = np.array([[1, -2, 3, 0.25, 100]], np.float32)
    assert fmtc.testing.check(fmtc.load("nvfp4"), x, backend="reference") > 1000


class WrongEngine(ReferenceEngine):
    """The reference with a fault: the largest magnitude code of a grid is never stored."""

    def encode_given(self, x: F32, scales: F32, selects: U8 | None, zeros: F32 | None) -> U8:
        return self._spoilt(super().encode_given(x, scales, selects, zeros), x.shape[1])

    def encode(self, x: F32, level: object) -> dict[str, U8]:
        streams = super().encode(x, level)
        return {**streams, "codes": self._spoilt(streams["codes"], x.shape[1])}

    def _spoilt(self, octets: U8, length: int) -> U8:
        codes = unpack(octets, length, self._codes)
        top = len(self._format.grids[0].values) - 1
        return pack(np.where(codes == top, codes - 1, codes), self._codes)


def wrong(fmt: Format) -> EngineBackend:
    return EngineBackend(fmt, WrongEngine(kernel_format(fmt)), "wrong")


def test_a_failure_shrinks_to_a_small_format_that_compiles() -> None:
    @settings(DRAWN, max_examples=200, phases=[Phase.generate, Phase.shrink])
    @given(st.data())
    def every_format_has_every_property(data: st.DataObject) -> None:
        fmt = compile_text(data.draw(generate.formats()))
        case = data.draw(properties.cases(fmt, wrong(fmt)))
        properties.check_case("nearest by exact rationals", case)

    with pytest.raises(fmtc.testing.Mismatch) as caught:
        every_format_has_every_property()
    message = str(caught.value)
    assert message.startswith("nearest by exact rationals: not so on this format:")
    text = message[message.index("format made") : message.index("\n}\n") + 2]
    small = compile_text(text)
    assert len(text) < 160, text
    assert (len(small.grids), small.sides, small.record) == (1, (), None)
    # The input is shown too, and is as small.
    shown = re.search(r"^(\[\[.*?\]\]): the stream", message, re.MULTILINE)
    assert shown is not None
    assert shown[1].count(",") < 4


def test_a_wrong_back_end_fails_the_check_and_says_where() -> None:
    fmt = fmtc.load("mxfp4")
    with pytest.raises(AssertionError, match="format mxfp4") as caught:
        fmtc.testing.check(fmt, backend=wrong(fmt), examples=20)
    assert fmt.source in str(caught.value)


def test_a_back_end_that_stores_other_bytes_fails_although_it_is_no_engine() -> None:
    fmt = fmtc.load("four_six")

    class Late(ReferenceBackend):
        def encode(self, x: F32, *rest: object) -> dict[str, U8]:
            return {k: np.roll(v, 1, axis=1) for k, v in super().encode(x, *rest).items()}

    with pytest.raises(fmtc.testing.Mismatch):
        fmtc.testing.check(fmt, backend=Late(fmt), examples=20)


# -- the page -------------------------------------------------------------------------------


def examples() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_the_pages_examples_are_tests_that_pass(tmp_path: Path) -> None:
    from commands import shell

    assert len(examples()) >= 2
    for i, text in enumerate(examples()):
        (tmp_path / f"test_{i}.py").write_text(text)
    (tmp_path / "my.fmt").write_text(fmtc.load("mxfp4").source)
    done = shell(f"{sys.executable} -m pytest -q -p no:cacheprovider -p no:xdist {tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_names_every_property_and_every_kind() -> None:
    text = PAGE.read_text("utf-8")
    for name in (*properties.PROPERTIES, *properties.FIXED, *fmtc.testing.KINDS):
        assert name in text, name
