"""Properties that Hypothesis tries to break, for a format that nobody has seen before."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ...compiler.format import Format
from ...compiler.reference import calibrate, decode, encode
from ..backend import F32
from .checks import Mismatch, compare_with_oracle

EXAMPLES = 100

_SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)

#: Finite binary32 numbers: anything, and numbers near the size that real weights have.
_FLOATS = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.floats(min_value=-4, max_value=4, width=32),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 6.0, -6.0, 448.0, 2.0**-126, -(2.0**-149)]),
)


def _rows(fmt: Format, most: int = 40) -> st.SearchStrategy[list[float]]:
    return st.lists(_FLOATS, min_size=1, max_size=min(2 * fmt.block + 1, most))


def _matrix(values: list[float]) -> F32:
    return np.array([values], np.float32)


def _prove(fmt: Format, holds: Callable[[list[float]], None]) -> int:
    """Run a property over generated rows; the number of rows tried."""
    tried = 0

    @_SETTINGS
    @given(_rows(fmt))
    def attempt(values: list[float]) -> None:
        nonlocal tried
        tried += 1
        holds(values)

    attempt()
    return tried


def nearest_by_exact_rationals(fmt: Format) -> int:
    """Scale, grid and codes are those that exact rationals choose."""

    def holds(values: list[float]) -> None:
        x = _matrix(values)
        compare_with_oracle(fmt, x, calibrate(fmt, x))

    return _prove(fmt, holds)


def sign_symmetry_of_zero(fmt: Format) -> int:
    """Zeros never change what their neighbours become, whatever their sign."""

    def holds(values: list[float]) -> None:
        x = _matrix(values)
        level = calibrate(fmt, x)
        flipped = np.where(x == 0, -x, x)
        one = decode(fmt, encode(fmt, x, level), x.shape[1], level)
        two = decode(fmt, encode(fmt, flipped, level), x.shape[1], level)
        if not np.array_equal(one, two, equal_nan=True):
            raise Mismatch(f"{values}: the sign of a zero changes the block")

    return _prove(fmt, holds)


def rows_are_independent(fmt: Format) -> int:
    """A row encodes to the same bytes alone and among others."""

    def holds(values: list[float]) -> None:
        x = _matrix(values)
        stack = np.concatenate([x, x[:, ::-1], x])
        level = calibrate(fmt, stack)
        alone, among = encode(fmt, x, level), encode(fmt, stack, level)
        for name, octets in alone.items():
            if not np.array_equal(octets[0], among[name][0]) or not np.array_equal(
                octets[0], among[name][2]
            ):
                raise Mismatch(f"{values}: the stream '{name}' depends on other rows")

    return _prove(fmt, holds)


def decoding_stays_in_range(fmt: Format) -> int:
    """No encoded block decodes to a NaN, and an all-zero row without a zero code stays small."""

    def holds(values: list[float]) -> None:
        x = _matrix(values)
        level = calibrate(fmt, x)
        if np.isnan(decode(fmt, encode(fmt, x, level), x.shape[1], level)).any():
            raise Mismatch(f"{values}: a finite row decodes to NaN")

    return _prove(fmt, holds)


#: Name -> property; each returns how many rows it tried.
PROPERTIES: dict[str, Callable[[Format], int]] = {
    "nearest by exact rationals": nearest_by_exact_rationals,
    "a zero's sign changes nothing else": sign_symmetry_of_zero,
    "rows are independent": rows_are_independent,
    "finite rows decode to numbers": decoding_stays_in_range,
}
