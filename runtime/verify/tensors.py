"""Hypothesis strategies for what a format is tried on: tensors, and weights of their columns."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from ...compiler.format import Format
from ..backend import F32

#: Most columns of a drawn tensor that has a choice.
MOST = 40

_ANYTHING = st.floats(width=32, allow_nan=False, allow_infinity=False)
_USUAL = st.floats(min_value=-4, max_value=4, width=32)
_SPECIAL = st.sampled_from(
    [0.0, -0.0, 1.0, -1.0, 0.5, -6.0, 448.0, 2.0**-126, -(2.0**-149), 3.4028234663852886e38]
)


@st.composite
def tensors(draw: st.DrawFn, fmt: Format, *, moderate: bool = False) -> F32:
    """float32 [rows, n], finite, of a shape that the format takes.

    Rows end in short blocks too. Values are of all sizes, with the format's own grid values and
    the ties between them among them.

    Args:
        draw: given by Hypothesis.
        fmt: the format.
        moderate: zero, or of a size from 2^-8 to 2^8.
    """
    rows, length = draw(_shapes(fmt))
    if moderate:
        sizes = st.floats(min_value=2.0**-8, max_value=2.0**8, width=32)
        kind = st.one_of(sizes, sizes.map(lambda v: -v), st.just(0.0))
    else:
        near = _near(fmt)
        kind = draw(
            st.sampled_from([_USUAL, near, _ANYTHING, st.one_of(near, _USUAL, _ANYTHING, _SPECIAL)])
        )
    values = draw(st.lists(kind, min_size=rows * length, max_size=rows * length))
    with np.errstate(over="ignore", under="ignore"):
        x: F32 = np.array(values, np.float64).astype(np.float32).reshape(rows, length)
    return np.nan_to_num(x, posinf=3.4028235e38, neginf=-3.4028235e38)


def weights(length: int) -> st.SearchStrategy[F32]:
    """float32 [length], not negative: how much the errors of columns count."""
    one = st.sampled_from([1.0, 0.0, 0.5, 2.0, 100.0, 0.3])
    return st.lists(one, min_size=length, max_size=length).map(lambda w: np.array(w, np.float32))


@st.composite
def _shapes(draw: st.DrawFn, fmt: Format) -> tuple[int, int]:
    if fmt.record is not None:
        size = fmt.record.elements
        return draw(st.integers(1, 2)) if size <= MOST else 1, size * (
            draw(st.integers(1, 2)) if size <= MOST else 1
        )
    if fmt.extent != "block":
        return draw(st.integers(1, 3)), draw(st.integers(1, MOST // 2))
    rows = draw(st.integers(1, fmt.tile + 1 if fmt.tile <= 4 else 2))
    return rows, draw(st.integers(1, min(2 * fmt.block + 1, MOST)))


def _near(fmt: Format) -> st.SearchStrategy[float]:
    """Grid values and the middles between them, and those times a power of two."""
    grid = fmt.grids[0]
    ties = [(a + b) / 2 for a, b in zip(grid.numbers, grid.numbers[1:], strict=False)]
    values = [float(v) for v in (*grid.numbers, *ties)]
    return st.one_of(
        st.sampled_from(values),
        st.tuples(st.sampled_from(values), st.integers(-8, 8)).map(lambda v: v[0] * 2.0 ** v[1]),
    )
