"""The kernel of ``sparse``, written by hand: it knows no format."""

from __future__ import annotations

import triton.language as tl


def add_sparse(  # type: ignore[no-untyped-def]  # Triton reads these annotations itself
    y_ptr,
    x_ptr,
    starts_ptr,
    columns_ptr,
    deltas_ptr,
    count,
    y_stride,
    x_stride,
    rows: tl.constexpr,
    lanes: tl.constexpr,
):
    """Add the sparse values of ``rows`` rows to the product with one vector x.

    y[m, r] += sum of delta * x[m, column]. Lane j of a row takes its values j, j + lanes and so
    on, in this order, in binary32; then the lanes are added as a tree. So a sum depends on
    nothing but its row and x.
    """
    m = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1) * rows + tl.arange(0, rows)
    lane = tl.arange(0, lanes)
    live = row < count
    start = tl.load(starts_ptr + row, mask=live, other=0)
    stop = tl.load(starts_ptr + row + 1, mask=live, other=0)
    longest = tl.max(stop - start, axis=0)
    total = tl.full((rows, lanes), 0.0, tl.float32)
    first = 0
    while first < longest:
        place = start[:, None] + (first + lane)[None, :]
        inside = place < stop[:, None]
        column = tl.load(columns_ptr + place, mask=inside, other=0)
        delta = tl.load(deltas_ptr + place, mask=inside, other=0.0)
        x = tl.load(x_ptr + m * x_stride + column, mask=inside, other=0.0)
        total += delta * x.to(tl.float32)
        first += lanes
    place = y_ptr + m * y_stride + row
    before = tl.load(place, mask=live, other=0.0)
    tl.store(place, before + tl.sum(total, axis=1), mask=live)
