"""The layout of codes on a GPU, against a bit-by-bit reading of its description."""

from __future__ import annotations

import numpy as np
import pytest
from fmtc.compiler.physical import (
    BYTES,
    HALF,
    NATURAL,
    PAIRS,
    SUPER,
    UNIT,
    PhysicalLayout,
    from_physical,
    to_physical,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

U8 = NDArray[np.uint8]

WIDTHS = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}

layouts = st.builds(
    PhysicalLayout,
    st.integers(1, 8),
    st.one_of(st.sampled_from([NATURAL, PAIRS, BYTES]), st.permutations(range(8)).map(tuple)),
)


def codes_of(seed: int, rows: int, length: int, bits: int) -> U8:
    return np.random.default_rng(seed).integers(0, 1 << bits, (rows, length)).astype(np.uint8)


def place_of(column: int, width: int, layout: PhysicalLayout, padded: int) -> tuple[int, int]:
    """Byte and lowest bit of a column's field in a plane, one sentence at a time."""
    s, inside = divmod(column, 128)
    q, inside = divmod(inside, 32)
    high, inside = divmod(inside, 16)
    i, r = divmod(inside, 4)
    w = 16 * s + 4 * i + q
    element = r + 4 * high
    if width == 8:
        return 4 * w + r + (padded // 2 if high else 0), 0
    position = layout.order.index(element) if width == 4 else element
    bit = 8 * (w * width) + position * width
    return bit // 8, bit % 8


def model(codes: U8, layout: PhysicalLayout, pad: int) -> list[U8]:
    rows, length = codes.shape
    padded = -(-length // 128) * 128
    planes, shift = [], 0
    for width in WIDTHS[layout.bits]:
        plane = np.zeros((rows, padded * width // 8), np.uint8)
        for row in range(rows):
            for column in range(padded):
                code = int(codes[row, column]) if column < length else pad
                octet, low = place_of(column, width, layout, padded)
                plane[row, octet] |= (code >> shift & (1 << width) - 1) << low
        planes.append(plane)
        shift += width
    return planes


@settings(max_examples=60, deadline=None)
@given(layouts, st.integers(0, 3), st.integers(0, 700), st.integers(0, 2**32 - 1))
def test_codes_come_back(layout: PhysicalLayout, rows: int, length: int, seed: int) -> None:
    codes = codes_of(seed, rows, length, layout.bits)
    pad = seed % (1 << layout.bits)
    planes = to_physical(codes, layout, pad)
    for plane, width in zip(planes, layout.planes, strict=True):
        assert plane.dtype == np.uint8
        assert plane.flags.c_contiguous
        assert plane.shape == (rows, layout.plane_bytes(width, length))
    assert np.array_equal(from_physical(planes, layout, length), codes)


@settings(max_examples=30, deadline=None)
@given(layouts, st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_every_bit_is_where_the_description_says(
    layout: PhysicalLayout, length: int, seed: int
) -> None:
    codes = codes_of(seed, 1, length, layout.bits)
    pad = seed % (1 << layout.bits)
    for plane, expected in zip(
        to_physical(codes, layout, pad), model(codes, layout, pad), strict=True
    ):
        assert np.array_equal(plane, expected)


@pytest.mark.parametrize("bits", range(1, 9))
def test_planes_have_every_bit_of_a_code_once(bits: int) -> None:
    layout = PhysicalLayout(bits)
    assert layout.planes == WIDTHS[bits]
    assert sum(layout.planes) == bits
    total = sum(layout.plane_bytes(width, 130) for width in layout.planes)
    assert total == layout.padded(130) * bits // 8 == 256 * bits // 8


def test_columns_say_which_elements_a_word_has() -> None:
    columns = PhysicalLayout(4).columns(129)
    assert columns.dtype == np.int64
    assert columns.shape == (2 * SUPER // 8, 8)
    assert sorted(columns.reshape(-1)) == list(range(2 * SUPER))
    for w in range(len(columns)):
        s, i, q = w // 16, w // 4 % 4, w % 4
        first = SUPER * s + UNIT * q + 4 * i
        low = list(range(first, first + 4))
        assert list(columns[w]) == low + [column + HALF for column in low]


def test_one_mask_of_a_word_in_pairs_leaves_two_neighbours_in_two_halves() -> None:
    codes = np.arange(SUPER, dtype=np.uint8)[None] % 16
    (plane,) = to_physical(codes, PhysicalLayout(4, PAIRS), 0)
    columns = PhysicalLayout(4).columns(SUPER)
    masked = plane.view("<u4")[0] & 0x000F000F
    assert np.array_equal(masked & 0xFFFF, codes[0, columns[:, 0]])
    assert np.array_equal(masked >> 16, codes[0, columns[:, 1]])


def test_one_mask_of_a_word_in_bytes_leaves_four_neighbours() -> None:
    codes = np.arange(SUPER, dtype=np.uint8)[None] % 16
    (plane,) = to_physical(codes, PhysicalLayout(4, BYTES), 0)
    columns = PhysicalLayout(4).columns(SUPER)
    low = (plane & 0x0F).reshape(-1, 4)
    high = (plane >> 4).reshape(-1, 4)
    assert np.array_equal(np.hstack([low, high]), codes[0, columns])


def test_what_is_no_layout_is_refused() -> None:
    for bits in (0, 9, -1):
        with pytest.raises(ValueError, match="1 to 8 bits"):
            PhysicalLayout(bits)
    for order in ((0, 1, 2), (0, 0, 1, 2, 3, 4, 5, 6), tuple(range(1, 9))):
        with pytest.raises(ValueError, match="no permutation"):
            PhysicalLayout(4, order)
    codes = np.zeros((1, 4), np.uint8)
    with pytest.raises(ValueError, match="no code of 3 bits"):
        to_physical(codes, PhysicalLayout(3), 8)
    planes = to_physical(codes, PhysicalLayout(3), 0)
    with pytest.raises(ValueError, match="expected"):
        from_physical(planes, PhysicalLayout(3), 200)
    with pytest.raises(ValueError, match="expected"):
        from_physical(planes[:1], PhysicalLayout(3), 4)
