"""Scale words of every size in the generated C: little-endian bit streams without gaps."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from c_formats import ALL, backends_of_format, format_of
from fmtc.compiler.format import Format
from fmtc.compiler.reference import TensorLevel, decode, encode
from fmtc.compiler.resolve import compile_text
from fmtc.compiler.view import ScaleView, view_of
from fmtc.compiler.vocabulary import CONTAINERS

RNG = np.random.default_rng(20260103)

#: Container -> word and rule, for the sizes that ``c_formats`` has not.
CASES = {
    1: ("ue1m0", "absmax"),
    2: ("ue1m1", "absmax"),
    4: ("s1e2m1", "argmax"),
    5: ("ue3m2", "absmax"),
    7: ("ue4m3", "absmax"),
    9: ("s1e4m4", "argmax"),
    11: ("s1e5m5", "argmax"),
    13: ("ue4m4", "absmax"),
    14: ("s1e5m4", "argmax"),
    15: ("s1e6m6", "argmax"),
}


def test_every_container_is_that_of_a_tested_format() -> None:
    assert set(CASES) | {format_of(name).scale.word.container for name in ALL} == set(CONTAINERS)


@cache
def words_format(word: str, rule: str, container: int) -> Format:
    return compile_text(
        f"format words_{container} {{ block 4  grid e2m1  "
        f"scale {word} {{ container {container}  rule {rule} }} }}"
    )


def integers_of(octets: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The fields of a little-endian bit stream, read from one large number a row."""
    numbers = [int.from_bytes(row.tobytes(), "little") for row in octets]
    assert all(number >> count * bits == 0 for number in numbers), "a spare bit is set"
    mask = (1 << bits) - 1
    return np.array([[n >> i * bits & mask for i in range(count)] for n in numbers], np.uint64)


def parts_of(words: np.ndarray, scale: ScaleView) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude and sign of scale words, of which nothing else may be set."""
    magnitude = words >> np.uint64(scale.magnitude_lsb) & np.uint64((1 << scale.magnitude_bits) - 1)
    sign = np.zeros_like(words)
    if scale.sign_bit is not None:
        sign = words >> np.uint64(scale.sign_bit) & np.uint64(1)
    put_together = magnitude << np.uint64(scale.magnitude_lsb)
    assert np.array_equal(put_together | sign << np.uint64(scale.sign_bit or 0), words)
    return magnitude, sign


@pytest.mark.parametrize(
    ("container", "which"),
    # What is no multiple of two bits is read and written in the same way on every target.
    [(container, "fastest" if container % 2 or container < 8 else "all") for container in CASES],
)
@pytest.mark.parametrize("length", [4, 8, 31, 33, 517])
def test_words_of_any_container_hold_the_scales_of_a_32_bit_one(
    container: int, which: str, length: int
) -> None:
    fmt = words_format(*CASES[container], container)
    wide = words_format(*CASES[container], 32)
    x = (RNG.standard_normal((3, length)) * np.exp2(RNG.uniform(-6, 3, (3, 1)))).astype(np.float32)
    level, blocks = TensorLevel(), -(-length // 4)
    wanted = encode(wide, x, level)
    words = wanted["scales"].view("<u4").astype(np.uint64)
    values = decode(wide, wanted, length, level)
    for backend in backends_of_format(fmt, which):
        found = backend.encode(x, level)
        assert found["scales"].shape == (3, -(-blocks * container // 8))
        mine = parts_of(integers_of(found["scales"], container, blocks), view_of(fmt).scale)
        assert all(map(np.array_equal, mine, parts_of(words, view_of(wide).scale)))
        assert np.array_equal(found["codes"], wanted["codes"])
        assert np.array_equal(backend.decode(found, length, level), values)
