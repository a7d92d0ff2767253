"""Every check of ``fmtc verify`` fails on a back end, a reference or a text that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import fmtc
import numpy as np
import pytest
from fmtc import compile_text
from fmtc.compiler.engine import ReferenceEngine
from fmtc.compiler.format import Format
from fmtc.compiler.kernel import kernel_format
from fmtc.compiler.packing import pack, unpack
from fmtc.compiler.reference import TensorLevel, calibrate
from fmtc.compiler.streams import stream_shapes
from fmtc.compiler.view import view_of
from fmtc.runtime.backend import EngineBackend, ReferenceBackend
from fmtc.runtime.verify import checks, oracle, properties
from numpy.typing import NDArray
from representatives import ANY_SHAPE, GENERAL, PLAIN

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
Streams = dict[str, U8]

CASES = 4000


class Broken(ReferenceBackend):
    """The reference with a fault built in: what it stores, or what it reads, is changed."""

    def __init__(
        self,
        fmt: Format,
        encoded: Callable[[Format, Streams, int], Streams] | None = None,
        decoded: Callable[[F32], F32] | None = None,
    ) -> None:
        super().__init__(fmt)
        self._fmt, self._encoded, self._decoded = fmt, encoded, decoded

    def encode(self, x: F32, level: TensorLevel, weights: F32 | None = None) -> Streams:
        streams = super().encode(x, level, weights)
        return self._encoded(self._fmt, streams, x.shape[1]) if self._encoded else streams

    def decode(self, streams: Streams, length: int, level: TensorLevel) -> F32:
        values = super().decode(streams, length, level)
        return self._decoded(values) if self._decoded else values


def changed(
    fmt: Format, streams: Streams, name: str, fields: int, change: Callable[[Any], Any]
) -> Streams:
    """The streams with one of them unpacked, changed in place, and packed again."""
    stream = next(s for s in fmt.streams if s.name == name)
    unpacked = unpack(streams[name], fields, stream)
    change(unpacked)
    return {**streams, name: pack(unpacked, stream)}


def blocks_of(fmt: Format, length: int) -> int:
    return -(-length // fmt.block)


def wrong_code(fmt: Format, streams: Streams, length: int) -> Streams:
    def change(codes: Any) -> None:
        codes[-1, -1] ^= 1

    return changed(fmt, streams, "codes", length, change)


def wrong_scale(fmt: Format, streams: Streams, length: int) -> Streams:
    def change(words: Any) -> None:
        words[-1, -1] ^= 1 << view_of(fmt).scale.magnitude_lsb

    return changed(fmt, streams, "scales", blocks_of(fmt, length), change)


def wrong_top_bit(fmt: Format, streams: Streams, length: int) -> Streams:
    def change(words: Any) -> None:
        words[-1, -1] ^= 1 << (fmt.scale.word.container - 1)

    return changed(fmt, streams, "scales", blocks_of(fmt, length), change)


def swapped_nibbles(fmt: Format, streams: Streams, length: int) -> Streams:
    codes = streams["codes"]
    return {**streams, "codes": (codes << np.uint8(4)) | (codes >> np.uint8(4))}


def swapped_neighbours(fmt: Format, streams: Streams, length: int) -> Streams:
    def change(codes: Any) -> None:
        codes[:, 0 : length // 2 * 2 : 2], codes[:, 1::2] = (
            codes[:, 1::2].copy(),
            codes[:, 0 : length // 2 * 2 : 2].copy(),
        )

    return changed(fmt, streams, "codes", length, change)


def dirty_spare_bits(fmt: Format, streams: Streams, length: int) -> Streams:
    codes = streams["codes"].copy()
    if length * fmt.code_bits % 8:
        codes[:, -1] |= 0x80 if fmt.order == "low_first" else 0x01
    return {**streams, "codes": codes}


def positive_zeros_encoded(fmt: Format, streams: Streams, length: int) -> Streams:
    minus = [grid.negative_zero for grid in fmt.grids]
    assert minus[0] is not None

    def change(codes: Any) -> None:
        codes[codes == minus[0]] = 0

    return changed(fmt, streams, "codes", length, change)


def lost_stream(fmt: Format, streams: Streams, length: int) -> Streams:
    return {name: octets for name, octets in streams.items() if name != "scales"}


def short_rows(fmt: Format, streams: Streams, length: int) -> Streams:
    return {name: octets[:, :-1] for name, octets in streams.items()}


def one_ulp(values: F32) -> F32:
    values[-1, -1] = np.nextafter(values[-1, -1], np.float32(np.inf))
    return values


def unsigned_zeros(values: F32) -> F32:
    return values + np.float32(0)


def flushed(values: F32) -> F32:
    zeros = np.copysign(np.float32(0), values)
    return np.where(np.abs(values) < np.float32(2.0**-126), zeros, values)


FORMATS = {name: fmtc.load(name) for name in PLAIN}
#: Formats of 4-bit codes, whose bytes hold two.
NIBBLES = [name for name, fmt in FORMATS.items() if fmt.code_bits == 4]
ENCODER_FAULTS = [wrong_code, wrong_scale, wrong_top_bit, swapped_neighbours, lost_stream]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("check", [checks.ties_agree, checks.random_agrees, checks.decode_agrees])
def test_the_checks_pass_on_the_reference_itself(name: str, check: Callable[..., int]) -> None:
    arguments = (CASES,) if check is checks.random_agrees else ()
    assert check(FORMATS[name], ReferenceBackend(FORMATS[name]), *arguments) > 0


@pytest.mark.parametrize("fault", [*ENCODER_FAULTS, short_rows])
@pytest.mark.parametrize("name", FORMATS)
def test_encoder_faults_fail_the_tie_check(name: str, fault: Any) -> None:
    with pytest.raises(checks.Mismatch):
        checks.ties_agree(FORMATS[name], Broken(FORMATS[name], encoded=fault))


@pytest.mark.parametrize("fault", [*ENCODER_FAULTS, dirty_spare_bits, short_rows])
@pytest.mark.parametrize("name", FORMATS)
def test_encoder_faults_fail_the_random_check(name: str, fault: Any) -> None:
    with pytest.raises(checks.Mismatch):
        checks.random_agrees(FORMATS[name], Broken(FORMATS[name], encoded=fault), CASES)


@pytest.mark.parametrize("check", [checks.ties_agree, checks.random_agrees])
@pytest.mark.parametrize("name", NIBBLES)
def test_swapped_nibbles_fail_every_encoding_check(name: str, check: Callable[..., int]) -> None:
    arguments = (CASES,) if check is checks.random_agrees else ()
    with pytest.raises(checks.Mismatch):
        check(FORMATS[name], Broken(FORMATS[name], encoded=swapped_nibbles), *arguments)


TWO_GRIDS_WITH_ZEROS = compile_text(
    "format two { block 16  grid a = e2m1  grid b = e1m2  scale e4m3"
    "  select 1 bit at scale.sign { 0: a, 1: b } }"
)


@pytest.mark.parametrize(
    "fmt",
    [FORMATS["mxfp4"], FORMATS["e2m3_ue4m4"], TWO_GRIDS_WITH_ZEROS],
    ids=lambda fmt: fmt.name,
)
def test_a_lost_sign_of_zero_fails_in_encoding_and_decoding(fmt: Format) -> None:
    # A -0 and a +0 err alike: with two grids too the check must not take them for a tie.
    with pytest.raises(checks.Mismatch):
        checks.random_agrees(fmt, Broken(fmt, encoded=positive_zeros_encoded), CASES)
    for check in (checks.decode_agrees, lambda f, b: checks.random_agrees(f, b, CASES)):
        with pytest.raises(checks.Mismatch):
            check(fmt, Broken(fmt, decoded=unsigned_zeros))


@pytest.mark.parametrize("name", FORMATS)
def test_one_wrong_ulp_fails_every_decoding_check(name: str) -> None:
    fmt = FORMATS[name]
    # The last value of the exhaustive table may be a NaN, which one ulp does not change.
    broken = Broken(fmt, decoded=lambda values: one_ulp(values[:, ::-1])[:, ::-1])
    plain = Broken(fmt, decoded=one_ulp)
    with pytest.raises(checks.Mismatch):
        checks.random_agrees(fmt, plain, CASES)
    with pytest.raises(checks.Mismatch):
        checks.decode_agrees(fmt, broken if np.isfinite(last_row(fmt)).all() else first_ulp(fmt))


def last_row(fmt: Format) -> F32:
    return ReferenceBackend(fmt).decode(
        checks.inputs.every_code(fmt, checks.inputs.every_word(fmt)[-1:]),
        1 << fmt.code_bits,
        TensorLevel(),
    )


def first_ulp(fmt: Format) -> Broken:
    def change(values: F32) -> F32:
        finite = np.argwhere(np.isfinite(values))
        place = tuple(finite[len(finite) // 2])
        values[place] = np.nextafter(values[place], np.float32(np.inf))
        return values

    return Broken(fmt, decoded=change)


@pytest.mark.parametrize("name", ["mxfp4", "nf4"])
def test_flushed_subnormals_fail_the_exhaustive_decoding_check(name: str) -> None:
    with pytest.raises(checks.Mismatch):
        checks.decode_agrees(FORMATS[name], Broken(FORMATS[name], decoded=flushed))


def test_a_wrong_grid_fails_although_both_decode() -> None:
    fmt = FORMATS["po2_nf4"]

    def other_grid(_: Format, streams: Streams, length: int) -> Streams:
        return wrong_top_bit(fmt, streams, length)  # the select bit is the word's sign

    with pytest.raises(checks.Mismatch):
        checks.ties_agree(fmt, Broken(fmt, encoded=other_grid))


def test_another_grid_of_the_same_error_passes() -> None:
    # Two equal grids: either index is right, and only the index may differ.
    fmt = compile_text(
        "format same { block 16  grid a = e2m1  grid b = e2m1  scale e4m3"
        "  select 1 bit at scale.sign { 0: a, 1: b } }"
    )
    assert checks.random_agrees(fmt, Broken(fmt, encoded=wrong_top_bit), CASES) > 0


# -- the checks of the reference itself ---------------------------------------------------


@pytest.mark.parametrize("fault", [wrong_code, wrong_scale, wrong_top_bit, swapped_neighbours])
@pytest.mark.parametrize("name", FORMATS)
def test_a_wrong_reference_fails_against_the_exact_rationals(name: str, fault: Any) -> None:
    fmt = FORMATS[name]
    x = np.random.default_rng(0).standard_normal((2, 2 * fmt.block + 2)).astype(np.float32)
    with pytest.raises(checks.Mismatch):
        checks.compare_with_oracle(fmt, Broken(fmt, encoded=fault), x, TensorLevel())


def test_a_lost_sign_of_zero_fails_against_the_exact_rationals() -> None:
    fmt = FORMATS["mxfp4"]
    x = np.array([[-0.0, 1.0]], np.float32)
    with pytest.raises(checks.Mismatch):
        checks.compare_with_oracle(
            fmt, Broken(fmt, encoded=positive_zeros_encoded), x, TensorLevel()
        )


@pytest.mark.parametrize("name", FORMATS)
def test_ties_that_go_the_other_way_fail_against_the_exact_rationals(name: str) -> None:
    fmt = FORMATS[name]
    other = replace(fmt.policies, tie="up" if fmt.policies.tie != "up" else "down")
    with pytest.raises(checks.Mismatch):
        checks.ties_are_exact(fmt, ReferenceBackend(replace(fmt, policies=other)))


@pytest.mark.parametrize("name", [*FORMATS, *GENERAL])
def test_a_wrong_decoder_fails_against_the_exact_rationals(name: str) -> None:
    with pytest.raises(checks.Mismatch):
        checks.decode_is_exact(fmtc.load(name), first_ulp(fmtc.load(name)))


class WrongEngine(ReferenceEngine):
    """An engine with a fault: the first element of every byte gets a neighbour's code."""

    def encode_given(self, x: F32, scales: F32, selects: U8 | None, zeros: F32 | None) -> U8:
        return super().encode_given(x, scales, selects, zeros) ^ np.uint8(1)

    def encode(self, x: F32, level: TensorLevel) -> Streams:
        streams = super().encode(x, level)
        return {**streams, "codes": streams["codes"] ^ np.uint8(1)}


def wrong_engine(fmt: Format) -> EngineBackend:
    return EngineBackend(fmt, WrongEngine(kernel_format(fmt)), "wrong")


@pytest.mark.parametrize("name", GENERAL)
@pytest.mark.parametrize("check", [checks.ties_agree, checks.random_agrees, checks.codes_return])
def test_a_wrong_engine_fails_every_check_of_any_format(
    name: str, check: Callable[..., int]
) -> None:
    fmt = fmtc.load(name)
    arguments = (CASES,) if check is checks.random_agrees else ()
    if check is checks.codes_return and fmt.policies.offset is not None:
        assert check(fmt, wrong_engine(fmt)) == 0  # what is cut off need not come back
        return
    with pytest.raises(checks.Mismatch):
        check(fmt, wrong_engine(fmt), *arguments)


@pytest.mark.parametrize("name", ANY_SHAPE)
def test_a_wrong_engine_fails_against_the_exact_rationals(name: str) -> None:
    fmt = fmtc.load(name)
    x = np.random.default_rng(0).standard_normal((2, 2 * min(fmt.block, 32) + 1)).astype(np.float32)
    backend = Broken(fmt, encoded=wrong_code) if fmt.is_plain else wrong_engine(fmt)
    with pytest.raises(checks.Mismatch):
        checks.compare_with_oracle(fmt, backend, x, calibrate(fmt, x))


def test_a_size_that_is_not_declared_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_more(fmt: Format, rows: int, length: int) -> dict[str, tuple[int, int]]:
        shapes = stream_shapes(fmt, rows, length)
        return shapes | {"codes": (rows, shapes["codes"][1] + 1)}

    monkeypatch.setattr(checks, "stream_shapes", one_more)
    with pytest.raises(checks.Mismatch, match="declared"):
        checks.size_is_declared(FORMATS["nf4"])


@pytest.mark.parametrize("name", FORMATS)
def test_a_wrong_unpacker_fails_the_round_trip(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_late(octets: U8, count: int, stream: Any) -> Any:
        return np.roll(unpack(octets, count, stream), 1, axis=1)

    monkeypatch.setattr(checks, "unpack", one_late)
    with pytest.raises(checks.Mismatch):
        checks.packing_round_trip(FORMATS[name])


def test_a_wrong_printer_or_compiler_fails_the_text_check(monkeypatch: pytest.MonkeyPatch) -> None:
    fmt, other = FORMATS["mxfp4"], FORMATS["nvfp4"]
    with monkeypatch.context() as patch:
        patch.setattr(checks, "print_file", lambda _: other.source)
        with pytest.raises(checks.Mismatch, match="another tree"):
            checks.text_round_trip(fmt)
    with monkeypatch.context() as patch:
        patch.setattr(checks, "compile_text", lambda _: other)
        with pytest.raises(checks.Mismatch, match="compiles to"):
            checks.text_round_trip(fmt)


# -- the properties -----------------------------------------------------------------------


class Faulty(Broken):
    """A back end that is wrong in one call: ``fault`` sees the tensor, and how often it came."""

    def __init__(self, fmt: Format, fault: Callable[[Faulty, F32], F32] | None = None) -> None:
        super().__init__(fmt)
        self._fault, self.calls = fault, 0

    def encode(self, x: F32, level: TensorLevel, weights: F32 | None = None) -> Streams:
        self.calls += 1
        return super().encode(self._fault(self, x) if self._fault else x, level, weights)


def leaks_between_rows(_: Faulty, x: F32) -> F32:
    return x + np.float32(len(x) - 1)


def minds_the_sign_of_zero(_: Faulty, x: F32) -> F32:
    return np.where(np.signbit(x) & (x == 0), np.float32(1), x)


def forgets_what_it_did(backend: Faulty, x: F32) -> F32:
    return x if backend.calls % 2 else np.where(x == np.abs(x).max(), np.float32(0), x)


def decodes(change: Callable[[F32], F32]) -> Callable[[Format], Broken]:
    return lambda fmt: Broken(fmt, decoded=change)


def one_byte_more(fmt: Format) -> Broken:
    def longer(_: Format, streams: Streams, length: int) -> Streams:
        return {name: np.pad(octets, ((0, 0), (0, 1))) for name, octets in streams.items()}

    return Broken(fmt, encoded=longer)


def nothing_wrong(fmt: Format) -> Broken:
    return Broken(fmt)


#: Property -> a format and a back end that break it.
FAULTS: dict[str, tuple[str, Callable[[Format], Broken]]] = {
    "nearest by exact rationals": ("nf4", lambda fmt: Broken(fmt, encoded=wrong_code)),
    "the second level is exact": ("nvfp4", nothing_wrong),
    "what was dequantized comes back": ("mxfp4", lambda f: Faulty(f, forgets_what_it_did)),
    "the order in a block is kept": ("nf4", decodes(lambda values: -values)),
    "-x decodes to minus": ("mxfp4", decodes(np.abs)),
    "4 x decodes to four times": ("mxfp4", decodes(lambda values: values + np.float32(1))),
    "a zero's sign changes nothing else": ("nf4", lambda f: Faulty(f, minds_the_sign_of_zero)),
    "rows are independent": ("nf4", lambda f: Faulty(f, leaks_between_rows)),
    "finite rows decode to numbers": (
        "nf4",
        decodes(lambda values: np.where(values > 2, np.float32(np.nan), values)),
    ),
    "a NaN makes its block NaN": ("mxfp4", decodes(np.nan_to_num)),
    "streams have their sizes": ("nf4", one_byte_more),
}


@pytest.mark.parametrize("name", properties.PROPERTIES)
def test_every_property_fails_where_it_does_not_hold(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    format_name, make = FAULTS[name]
    fmt = FORMATS[format_name]
    if make is nothing_wrong:
        monkeypatch.setattr(properties, "calibrate", lambda *_: TensorLevel(tensor_scale=0.3))
    with pytest.raises(checks.Mismatch):
        properties.prove(fmt, make(fmt), properties.PROPERTIES[name])


def test_there_is_a_control_for_every_property_and_check() -> None:
    assert set(FAULTS) == set(properties.PROPERTIES)
    public = {
        name
        for name, value in vars(checks).items()
        if callable(value) and value.__module__ == checks.__name__ and not name.startswith("_")
    }
    assert public == {
        *("Mismatch", "text_round_trip", "packing_round_trip", "size_is_declared"),
        *("decode_is_exact", "decode_agrees", "ties_are_exact", "ties_agree", "codes_return"),
        *("encode_agrees", "random_agrees", "compare_with_oracle", "same_bytes"),
        *("second_level", "engine_of"),
    }


def test_the_oracle_follows_the_values_of_the_format_and_nothing_else() -> None:
    fmt = FORMATS["nf4"]
    grid = replace(fmt.grids[0], values=(*fmt.grids[0].values[:-2], Fraction(7, 8), Fraction(1)))
    moved = replace(fmt, grids=(grid,))
    block = [0.9, 1.0]  # between the old midpoint and the new one
    one, two = (oracle.block_trials(f, block, Fraction(1))[0] for f in (fmt, moved))
    assert one.codes != two.codes
