"""The laws that elements are taken to follow: symmetric about 0, of variance 1, independent.

Of each law what order statistics and quantization errors are made of, in closed forms: in
binary64 over NumPy arrays its density and the probabilities of [-x, x] and of its complement; in
mpmath, at its working precision, these and the moments of a tail. Arguments are 0 or more,
except a density's.

Student's t of n degrees is scaled by sqrt((n - 2) / n); with tan(a) = x / sqrt(n - 2) its
probabilities are the finite sums in sin(a) and cos(a) of Abramowitz and Stegun 26.7.3 and
26.7.4, in the tail the series of the incomplete beta function; a tail's second moment is its
edge's and the tail of n - 2 degrees at the same a.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import mpmath
import numpy as np
from numpy.typing import ArrayLike, NDArray

F64 = NDArray[np.float64]
#: A number of mpmath, which has no types.
Mp = Any

#: Degrees of freedom that are served: variance needs more than 2, sums grow with them.
MIN_DEGREES, MAX_DEGREES = 3, 100

_ROOT_2 = math.sqrt(2.0)
#: Of what lies beyond infinity.
_NOTHING = (mpmath.mpf(0), mpmath.mpf(0), mpmath.mpf(0))
#: From here a tail of Student's t is summed up; nearer it is 1 minus the rest.
_TAIL = 3


@dataclass(frozen=True, slots=True)
class Law(ABC):
    """A symmetric law of variance 1. ``degrees`` are those of Student's t."""

    name: str
    degrees: int | None = None

    def __str__(self) -> str:
        return self.name if self.degrees is None else f"{self.name}:{self.degrees}"

    @abstractmethod
    def density(self, x: ArrayLike) -> F64:
        """The density at any x."""

    @abstractmethod
    def within(self, x: ArrayLike) -> F64:
        """P(|X| <= x): to rounding, relative near 0, absolute near 1."""

    @abstractmethod
    def beyond(self, x: ArrayLike) -> F64:
        """P(|X| > x): relative accuracy in the tail."""

    @abstractmethod
    def mp_density(self, x: Mp) -> Mp:
        """``density`` in mpmath."""

    @abstractmethod
    def mp_within(self, x: Mp) -> Mp:
        """``within`` in mpmath, to its absolute accuracy."""

    @abstractmethod
    def mp_tails(self, x: Mp) -> tuple[Mp, Mp, Mp]:
        """The integrals of f, t f and t^2 f over x..infinity, each to relative accuracy."""


def law(name: str) -> Law:
    """The law of this name: ``gaussian``, ``laplace``, ``student`` (of 5) or ``student:7``.

    Raises:
        ValueError: there is no such law.
    """
    plain = {"gaussian": GAUSSIAN, "laplace": LAPLACE, "student": STUDENT5}
    if name in plain:
        return plain[name]
    kind, _, degrees = name.partition(":")
    if kind == "student" and degrees.isascii() and degrees.isdigit():
        return student(int(degrees))
    raise ValueError(
        f"no law '{name}'; there are gaussian, laplace, student and student:N"
        f" with N from {MIN_DEGREES} to {MAX_DEGREES}"
    )


def student(degrees: int) -> Law:
    """Student's t of so many degrees of freedom, scaled to variance 1.

    Raises:
        ValueError: ``degrees`` is out of range.
    """
    if not MIN_DEGREES <= degrees <= MAX_DEGREES:
        raise ValueError(
            f"Student's t has {MIN_DEGREES} to {MAX_DEGREES} degrees here, not {degrees}"
        )
    return Student("student", degrees)


# -- Gaussian --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gaussian(Law):
    """N(0, 1)."""

    def density(self, x: ArrayLike) -> F64:
        """The density at any x."""
        return np.exp(-np.square(_array(x)) / 2) / math.sqrt(2 * math.pi)

    def within(self, x: ArrayLike) -> F64:
        """P(|X| <= x)."""
        return _each(math.erf, _array(x) / _ROOT_2)

    def beyond(self, x: ArrayLike) -> F64:
        """P(|X| > x)."""
        return _each(math.erfc, _array(x) / _ROOT_2)

    def mp_density(self, x: Mp) -> Mp:
        """The density at any x."""
        return mpmath.exp(-x * x / 2) / mpmath.sqrt(2 * mpmath.pi)

    def mp_within(self, x: Mp) -> Mp:
        """P(|X| <= x)."""
        return mpmath.erf(x / mpmath.sqrt(2))

    def mp_tails(self, x: Mp) -> tuple[Mp, Mp, Mp]:
        """The integrals of f, t f and t^2 f over x..infinity."""
        if mpmath.isinf(x):
            return _NOTHING
        mass = mpmath.erfc(x / mpmath.sqrt(2)) / 2
        edge = self.mp_density(x)
        return mass, edge, mass + x * edge


# -- Laplace ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Laplace(Law):
    """Density exp(-sqrt(2) |x|) / sqrt(2)."""

    def density(self, x: ArrayLike) -> F64:
        """The density at any x."""
        return np.exp(-_ROOT_2 * np.abs(_array(x))) / _ROOT_2

    def within(self, x: ArrayLike) -> F64:
        """P(|X| <= x)."""
        return -np.expm1(-_ROOT_2 * _array(x))

    def beyond(self, x: ArrayLike) -> F64:
        """P(|X| > x)."""
        return np.exp(-_ROOT_2 * _array(x))

    def mp_density(self, x: Mp) -> Mp:
        """The density at any x."""
        root = mpmath.sqrt(2)
        return mpmath.exp(-root * abs(x)) / root

    def mp_within(self, x: Mp) -> Mp:
        """P(|X| <= x)."""
        return -mpmath.expm1(-mpmath.sqrt(2) * x)

    def mp_tails(self, x: Mp) -> tuple[Mp, Mp, Mp]:
        """The integrals of f, t f and t^2 f over x..infinity."""
        if mpmath.isinf(x):
            return _NOTHING
        root = mpmath.sqrt(2)
        mass = mpmath.exp(-root * x) / 2
        return mass, mass * (x + 1 / root), mass * (x * x + root * x + 1)


# -- Student's t -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Student(Law):
    """Density C (1 + x^2 / (n - 2))^(-(n + 1) / 2), n degrees of freedom."""

    @property
    def _n(self) -> int:
        if self.degrees is None:
            raise ValueError("Student's t needs its degrees of freedom")
        return self.degrees

    def density(self, x: ArrayLike) -> F64:
        """The density at any x."""
        spread = 1 + np.square(_array(x)) / (self._n - 2)
        return float(_height(self._n, 53)) * spread ** (-(self._n + 1) / 2)

    def within(self, x: ArrayLike) -> F64:
        """P(|X| <= x)."""
        angle = np.arctan(_array(x) / math.sqrt(self._n - 2))
        sine, cosine = np.sin(angle), np.cos(angle)
        total = np.zeros_like(angle)
        for over, under in reversed(_coefficients(self._n)):
            total = total * cosine * cosine + over / under
        if self._n % 2 == 0:
            return np.asarray(sine * total, np.float64)
        return np.asarray((angle + sine * cosine * total) * (2 / math.pi), np.float64)

    def beyond(self, x: ArrayLike) -> F64:
        """P(|X| > x): in the tail the incomplete beta function's series, all terms positive."""
        size = _array(x)
        n = self._n
        square = np.square(np.maximum(size, 1.0)) / (n - 2)
        share = 1 / (1 + square)
        term = np.ones_like(share)
        total = np.ones_like(share)
        k = 0
        while np.any(term > total * 1e-17):
            term = term * share * ((n + 1) / 2 + k) / (n / 2 + 1 + k)
            total = total + term
            k += 1
        # x^a (1 - x)^(1/2) / (a B(a, 1/2)), a = n/2; 2 C sqrt(n - 2) is 2 / B(a, 1/2).
        front = 2 * float(_height(n, 53)) * math.sqrt(n - 2) / n
        tail = front * share ** (n / 2) * np.sqrt(1 - share) * total
        return np.where(size > 1, tail, 1 - self.within(np.minimum(size, 1.0)))

    def mp_density(self, x: Mp) -> Mp:
        """The density at any x."""
        spread = 1 + x * x / (self._n - 2)
        return _height(self._n, mpmath.mp.prec) / mpmath.sqrt(spread) ** (self._n + 1)

    def mp_within(self, x: Mp) -> Mp:
        """P(|X| <= x)."""
        if mpmath.isinf(x):
            return mpmath.mpf(1)
        reach = x / mpmath.sqrt(self._n - 2)
        square = 1 / (1 + reach * reach)
        total = mpmath.mpf(0)
        for over, under in reversed(_coefficients(self._n)):
            total = total * square + mpmath.mpf(over) / under
        if self._n % 2 == 0:
            return reach * mpmath.sqrt(square) * total
        return (mpmath.atan(reach) + reach * square * total) * 2 / mpmath.pi

    def mp_tails(self, x: Mp) -> tuple[Mp, Mp, Mp]:
        """The integrals of f, t f and t^2 f over x..infinity."""
        if mpmath.isinf(x):
            return _NOTHING
        n, precision = self._n, mpmath.mp.prec
        spread = mpmath.sqrt(1 + x * x / (n - 2))
        fall = spread ** (2 - n)
        edge = _height(n, precision) * (n - 2) / (n - 1) * fall / spread
        beyond = self._mp_beyond(x)
        # Of n - 2 degrees it is this much more: the first term of its own series.
        sine = x / spread / mpmath.sqrt(n - 2)
        more = fall * sine * 2 / ((n - 2) * _beta(n - 2, precision))
        return beyond / 2, edge, (beyond + more) / 2 + x * edge

    def _mp_beyond(self, x: Mp) -> Mp:
        """P(|X| > x), in the tail by the series of ``beyond`` in integers."""
        if x < _TAIL:
            return 1 - self.mp_within(x)
        n, precision = self._n, mpmath.mp.prec
        share = (n - 2) / (n - 2 + x * x)
        bits = precision + 20
        factor = int(mpmath.floor(mpmath.ldexp(share, bits)))
        term = total = 1 << bits
        k = n
        while term:
            term = (term * factor * (k + 1) >> bits) // (k + 2)
            total += term
            k += 2
        front = mpmath.sqrt(share) ** n * mpmath.sqrt(1 - share)
        return mpmath.ldexp(front * total, 1 - bits) / (n * _beta(n, precision))


@cache
def _coefficients(degrees: int) -> tuple[tuple[int, int], ...]:
    """Of cos^2k in 26.7.3 (odd degrees; one power and pi/2 apart) and 26.7.4, as fractions."""
    odd = degrees % 2
    count = (degrees - 1) // 2 if odd else degrees // 2
    found = [(1, 1)] if count else []
    for k in range(1, count):
        over, under = found[-1]
        found.append((over * (2 * k - 1 + odd), under * (2 * k + odd)))
    return tuple(found)


@cache
def _beta(degrees: int, precision: int) -> Mp:
    """B(degrees / 2, 1 / 2), to this many bits."""
    with mpmath.workprec(precision + 10):
        return mpmath.beta(mpmath.mpf(degrees) / 2, mpmath.mpf(1) / 2)


@cache
def _height(degrees: int, precision: int) -> Mp:
    """The density at 0, to this many bits: 1 / (B(n/2, 1/2) sqrt(n - 2))."""
    with mpmath.workprec(precision + 10):
        return 1 / (_beta(degrees, precision + 10) * mpmath.sqrt(degrees - 2))


# -- arrays ----------------------------------------------------------------------------


def _array(x: ArrayLike) -> F64:
    return np.asarray(x, np.float64)


def _each(function: Callable[[float], float], x: F64) -> F64:
    """A function of the math module on every element: NumPy has no error function."""
    values = np.fromiter(map(function, x.reshape(-1).tolist()), np.float64, x.size)
    return values.reshape(x.shape)


GAUSSIAN: Law = Gaussian("gaussian")
LAPLACE: Law = Laplace("laplace")
STUDENT5: Law = student(5)
