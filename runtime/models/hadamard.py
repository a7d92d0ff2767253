"""Hadamard matrices by Sylvester and Paley, and the random orthogonal matrices made of them.

Sources: Sylvester 1867 (powers of two); Paley 1933 (constructions I and II, here for primes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Signs = npt.NDArray[np.int8]


def hadamard(n: int) -> Signs | None:
    """Return an n x n Hadamard matrix, or None where these constructions have none.

    Args:
        n: the order, at least 1.

    Returns:
        int8 entries -1 and +1 with ``H @ H.T == n * I``. Powers of two by Sylvester, a prime q
        with q+1 = n or 2(q+1) = n by Paley, else the Kronecker product of a Paley matrix of the
        smallest order and what remains (576 = 12 * 48, 1536 = 12 * 128).

    Raises:
        ValueError: n is below 1.
    """
    if n < 1:
        raise ValueError(f"a Hadamard matrix has an order of at least 1, not {n}")
    if n & (n - 1) == 0:
        return _sylvester(n)
    own = _paley(n)
    if own is not None:
        return own
    for order in range(12, n // 2 + 1, 4):
        # A power of two on the left would leave the hard part untouched on the right.
        left = _paley(order) if n % order == 0 and order & (order - 1) else None
        right = None if left is None else hadamard(n // order)
        if left is not None and right is not None:
            return cast("Signs", np.kron(left, right))
    return None


def random_orthogonal(n: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return a random n x n orthogonal matrix, every entry +-1/sqrt(n) where a Hadamard exists.

    Args:
        n: the order, at least 1.
        rng: gives the signs of the rows; for an n without a Hadamard, a Gaussian matrix whose
            QR factor is taken (uniform over rotations and reflections).
    """
    core = hadamard(n)
    if core is not None:
        signs = rng.integers(0, 2, n) * 2.0 - 1.0
        return cast("npt.NDArray[np.float64]", signs[:, None] * core / np.sqrt(n))
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    # QR is unique only up to column signs; fixing R's diagonal makes the law uniform.
    return cast("npt.NDArray[np.float64]", q * np.where(np.diag(r) < 0, -1.0, 1.0))


def _sylvester(n: int) -> Signs:
    matrix = np.ones((1, 1), dtype=np.int8)
    while len(matrix) < n:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def _paley(n: int) -> Signs | None:
    """Return Paley's matrix of order n over a prime field: construction I, else II, else None."""
    if n % 4 != 0:
        return None
    if _is_prime(n - 1):  # n divides by 4, so this prime is 3 mod 4
        border = _bordered_residues(n - 1)
        border[1:, 0] = -1
        return border + np.eye(n, dtype=np.int8)
    q = n // 2 - 1
    if q % 4 == 1 and _is_prime(q):
        core = _bordered_residues(q)
        off = np.array([[1, 1], [1, -1]], dtype=np.int8)
        diagonal = np.array([[1, -1], [-1, -1]], dtype=np.int8)
        return np.kron(core, off) + np.kron(np.eye(q + 1, dtype=np.int8), diagonal)
    return None


def _bordered_residues(q: int) -> Signs:
    """Return the (q+1)-square matrix [[0, 1], [1, Q]], Q[i, j] = Legendre symbol of i - j."""
    legendre = np.full(q, -1, dtype=np.int8)
    legendre[[x * x % q for x in range(q)]] = 1
    legendre[0] = 0
    index = np.arange(q)
    matrix = np.ones((q + 1, q + 1), dtype=np.int8)
    matrix[0, 0] = 0
    matrix[1:, 1:] = legendre[(index[:, None] - index) % q]
    return matrix


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))
