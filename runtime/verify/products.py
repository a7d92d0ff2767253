"""A back end's products against the reference's, to the last bit."""

from __future__ import annotations

import numpy as np

from ...compiler.format import Format
from ...compiler.product import ACTIVATIONS, NoIntegerProduct, integer_grids, product
from ...compiler.reference import calibrate
from ..backend import Backend, ReferenceBackend
from ..product import PackedRows
from .checks import Mismatch, engine_of
from .inputs import random_rows

#: Values of packed rows, a product of each takes the reference's fused multiply-adds.
VALUES = 20_000


def products_agree(fmt: Format, backend: Backend) -> int:
    """Rows of many kinds times vectors, as they are and as integers, give the reference's bits."""
    cases = 0
    for rows in random_rows(fmt, VALUES):
        x = np.ascontiguousarray(rows)
        level = calibrate(fmt, x)
        streams = ReferenceBackend(fmt).encode(x, level)
        length = x.shape[1]
        vectors = np.random.default_rng(length).standard_normal((2, length)).astype(np.float32)
        packed = PackedRows(fmt, streams, length, level, engine_of(backend), 1)
        for activations in _activations(fmt):
            expected = product(fmt, streams, length, level, vectors, activations)
            found = packed.product(vectors, activations)
            both_nan = np.isnan(found) & np.isnan(expected)
            if ((found.view(np.uint32) != expected.view(np.uint32)) & ~both_nan).any():
                raise Mismatch(f"{activations} activations: {found} should be {expected}")
            cases += found.size
    return cases


def _activations(fmt: Format) -> tuple[str, ...]:
    try:
        integer_grids(fmt)
    except NoIntegerProduct:
        return ACTIVATIONS[:1]
    return ACTIVATIONS
