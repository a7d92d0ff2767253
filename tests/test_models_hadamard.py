import numpy as np
import pytest
from fmtc.runtime.models import hadamard, random_orthogonal


@pytest.mark.parametrize("n", [1, 2, 4, 8, 12, 20, 24, 28, 36, 48, 64, 72, 96, 128, 144, 572, 576])
def test_a_hadamard_matrix_has_signs_only_and_orthogonal_rows(n):
    h = hadamard(n)
    assert h is not None
    assert set(np.unique(h)) <= {-1, 1}
    assert np.array_equal(h.astype(np.int64) @ h.T.astype(np.int64), n * np.eye(n, dtype=np.int64))


def test_every_order_gives_a_true_hadamard_matrix_or_none():
    for n in range(1, 200):
        h = hadamard(n)
        if h is None:
            assert n > 2
            continue
        assert n in (1, 2) or n % 4 == 0
        assert np.array_equal(h.astype(np.int64) @ h.T.astype(np.int64), n * np.eye(n))


def test_576_is_the_product_of_paleys_12_and_48():
    assert np.array_equal(hadamard(576), np.kron(hadamard(12), hadamard(48)))


def test_a_hadamard_matrix_of_order_zero_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        hadamard(0)


@pytest.mark.parametrize("n", [1, 3, 30, 64, 575, 576])
def test_a_random_orthogonal_matrix_is_orthogonal(n):
    r = random_orthogonal(n, np.random.default_rng(5))
    assert np.abs(r @ r.T - np.eye(n)).max() < 1e-12


def test_a_random_orthogonal_matrix_is_flat_where_a_hadamard_exists():
    r = random_orthogonal(576, np.random.default_rng(0))
    assert np.allclose(np.abs(r), 1 / 24, rtol=1e-12)


@pytest.mark.parametrize("n", [30, 64])
def test_the_seed_decides_a_random_orthogonal_matrix(n):
    first, again, other = (random_orthogonal(n, np.random.default_rng(s)) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
