"""Every kernel against the NumPy reference, on memory that gives mistakes away.

Encoded bytes and decoded bits must be equal. A product may differ by its arithmetic: ``single``
by 2^-18 of the sum of the magnitudes that are added, ``half`` by 2^-8 of it, and all outputs
together by ``NORMS`` of their own size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from fmtc.compiler.engine import ReferenceEngine
from fmtc.compiler.format import Format
from fmtc.compiler.kernel import dense_format, kernel_format
from fmtc.compiler.narrow import narrow
from fmtc.compiler.pipeline import decode
from fmtc.compiler.product import Given
from fmtc.compiler.reference import calibrate, encode
from fmtc.formats import load
from fmtc.runtime.triton_backend import TritonBackend

from ..measure import reason
from . import ours
from .plan import Plan, Shape
from .poison import Overrun, Poison, map_tensors

#: Of the sum of magnitudes, and of the norm of all outputs, by arithmetic.
TERMS = {"single": 2.0**-18, "half": 2.0**-8}
NORMS = {"single": 2.0**-17, "half": 4e-3}

#: The part of all blocks that may have another grid than the reference, losing no more.
EXCUSED = 1e-3

#: So many mistakes of a format are told; after one that says this the device is lost.
MOST, LOST = 8, "CUDA error"

#: Arithmetics by rows of activations: both up to here, and what the product takes by itself.
BOTH_UP_TO = 8
#: Rows of activations that are given in other dtypes than float16, too.
OTHER_DTYPES = (1, 16)


#: Compares one result with the reference's, and raises ``Mismatch``.
Compare = Callable[[], None]


class Mismatch(AssertionError):
    """A kernel gives something else than the reference; the message says which and where."""


def check(name: str, plan: Plan) -> tuple[int, list[str]]:
    """Hold every kernel of a format against the reference.

    Returns:
        How many comparisons were made, and what is wrong: the first ``MOST`` of it.
    """
    fmt, count = load(name), 0
    wrong: list[str] = []
    for rows, columns in plan.check_shapes:
        whole = 1 if fmt.record is None else fmt.record.elements
        shape = rows, columns // whole * whole
        try:
            for compare in _comparisons(fmt, shape, plan):
                count += 1
                wrong += _outcome(fmt, compare)
                if len(wrong) >= MOST or (wrong and LOST in wrong[-1]):
                    return count, wrong
        except Exception as error:  # noqa: BLE001 - what cannot be prepared is wrong, too
            wrong.append(f"{name} {list(shape)}: {reason(error)}")
    return count, wrong


def _outcome(fmt: Format, compare: Compare) -> list[str]:
    """What a comparison finds wrong, or raises."""
    try:
        compare()
    except Mismatch as difference:
        return [str(difference)]
    except Exception as error:  # noqa: BLE001 - a kernel that does not run is no better
        words = [getattr(compare, "func", compare).__name__.strip("_"), *_words(compare)]
        return [f"{fmt.name}: {' '.join(words)}: {reason(error)}"]
    return []


def _words(compare: Compare) -> list[str]:
    """The plain arguments of a comparison."""
    arguments = getattr(compare, "args", ())
    return [
        str(getattr(a, "name", a)) for a in arguments if isinstance(a, str | int) or _is_config(a)
    ]


def _is_config(value: Any) -> bool:
    return hasattr(value, "config") and hasattr(value, "cost")


def _comparisons(fmt: Format, shape: Shape, plan: Plan) -> Iterator[Compare]:
    """One comparison after the other, to be called."""
    coder = _plain_coder if dense_format(fmt).is_plain else _given_coder
    yield from coder(fmt, _rough(shape), plan.device)
    yield from _products(ours.pack(fmt, ours.random_rows(shape, seed=1)), plan)


def _rough(shape: Shape) -> Any:
    """Numbers of all sizes, some of them zeros of both signs: float32."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal(shape).astype(np.float32)
    x[1::3] = np.ldexp(x[1::3], rng.integers(-20, 20, x[1::3].shape))
    x[:, 5::97] = -0.0
    x[:, 11::89] = 0.0
    x[2] = 0.0
    return x


def _plain_coder(fmt: Format, x: Any, device: str) -> Iterator[Compare]:
    """Encode from three dtypes, decode to three, for a format that kernels do alone."""
    dense = dense_format(fmt)
    backend, level = TritonBackend(dense, device), calibrate(dense, x)
    for dtype in ours.DTYPES if device != "cpu" else ("float32", "float16"):
        yield partial(_encode, dense, backend, x, level, dtype)
    streams = encode(dense, x, level)
    values = ReferenceEngine(dense).decode(streams, x.shape[1], level)
    for dtype in ours.DTYPES:
        yield partial(_decode, dense, backend, streams, values, level, dtype)


def _encode(fmt: Format, backend: TritonBackend, x: Any, level: Any, dtype: str) -> None:
    within = np.clip(x, -1e4, 1e4) if dtype == "float16" else x
    tensor = torch.from_numpy(within).to(getattr(torch, dtype))
    rounded = tensor.float().numpy()
    want = encode(fmt, rounded, level)
    with _guarded(fmt, f"encode from {dtype}", backend.device) as poison:
        there = backend.encode_tensor(poison.guard(tensor.to(backend.device)), level)
    got = {name: stream.cpu().numpy() for name, stream in there.items()}
    for name, octets in want.items():
        if not np.array_equal(got[name], octets):
            _excuse(fmt, rounded, want, got, level, name)


def _decode(
    fmt: Format, backend: TritonBackend, streams: Any, values: Any, level: Any, dtype: str
) -> None:
    what = f"decode to {dtype}"
    with _guarded(fmt, what, backend.device) as poison:
        there = {name: _there(poison, s, backend.device) for name, s in streams.items()}
        got = backend.decode_tensor(there, values.shape[1], level, dtype)
    _same_bits(fmt, what, got, narrow(values, dtype))


def _given_coder(fmt: Format, x: Any, device: str) -> Iterator[Compare]:
    """Encode and decode under scales that the reference has chosen."""
    dense, kernel = dense_format(fmt), kernel_format(fmt)
    x = np.clip(x, -1e4, 1e4)  # scales are binary16 in many of these formats
    given = ours.pack(dense, x).given
    blocks = given.scales, given.selects, given.zeros
    backend = TritonBackend(kernel, device)
    codes = ReferenceEngine(kernel).encode_given(x, *blocks)
    yield partial(_encode_given, fmt, backend, x, given, codes)
    values = ReferenceEngine(kernel).decode_given(codes, *blocks, x.shape[1])
    for dtype in ours.DTYPES:
        yield partial(_decode_given, fmt, backend, codes, given, values, dtype)


def _encode_given(fmt: Format, backend: TritonBackend, x: Any, given: Given, codes: Any) -> None:
    what, device = "encode under given scales", backend.device
    with _guarded(fmt, what, device) as poison:
        scales, selects, zeros = _blocks(poison, given, device)
        got = backend.encode_given_tensor(_there(poison, x, device), scales, selects, zeros)
    if not np.array_equal(got.cpu().numpy(), codes):
        raise Mismatch(f"{fmt.name} {list(x.shape)}: {what}")


def _decode_given(
    fmt: Format, backend: TritonBackend, codes: Any, given: Given, values: Any, dtype: str
) -> None:
    what, device = f"decode to {dtype} under given scales", backend.device
    with _guarded(fmt, what, device) as poison:
        scales, selects, zeros = _blocks(poison, given, device)
        got = backend.decode_given_tensor(
            _there(poison, codes, device), scales, selects, zeros, values.shape[1], dtype
        )
    _same_bits(fmt, what, got, narrow(values, dtype))


def _products(packed: ours.Packed, plan: Plan) -> Iterator[Compare]:
    """Every likely configuration, for every number of rows, in every arithmetic."""
    fmt, length = packed.format, packed.shape[1]
    weights = ours.device_weights(packed, plan.device)
    yield partial(_come_back, packed, weights)
    engine = ReferenceEngine(kernel_format(fmt))
    dense = decode(fmt, packed.streams, length, packed.level, engine).astype(np.float64)
    for m in plan.check_rows:
        x = np.random.default_rng(m).standard_normal((m, length)).astype(np.float16)
        # What all three dtypes hold exactly: eight bits.
        x = (x.view(np.uint16) & np.uint16(0xFFF8)).view(np.float16)
        exact = x.astype(np.float64) @ dense.T
        size = np.abs(x.astype(np.float64)) @ np.abs(dense).T
        for arithmetic, dtype, config in _ways(weights, m, plan):
            yield partial(_multiply, weights, x, exact, size, m, arithmetic, dtype, config)


def _come_back(packed: ours.Packed, weights: Any) -> None:
    for name, octets in weights.to_canonical().items():
        if not np.array_equal(octets.cpu().numpy(), packed.streams[name]):
            shape = list(packed.shape)
            raise Mismatch(f"{packed.format.name} {shape}: the stream '{name}' does not come back")


def _multiply(
    weights: Any, x: Any, exact: Any, size: Any, m: int, arithmetic: str, dtype: str, config: Any
) -> None:
    what = f"product of {m} rows of {dtype} in {arithmetic}"
    what += "" if config is None else f", {config.name}"
    with _guarded(weights.format, what, weights.device) as poison:
        safe = map_tensors(weights, poison.guard)
        given = torch.from_numpy(x).to(weights.device, getattr(torch, dtype))
        got = ours.multiply(safe, poison.guard(given), config, arithmetic, torch.float32)
    shape = [weights.rows, weights.length]
    kind = "half" if arithmetic == "half" or dtype != "float32" else "single"
    kind = "single" if arithmetic == "single" else kind
    _near(f"{weights.format.name} {shape}: {what}", got, exact, size, kind)


def _ways(weights: Any, m: int, plan: Plan) -> Iterator[tuple[str, str, Any]]:
    """Arithmetic, dtype of the activations and configuration of each product of so many rows.

    Of products with 2 to 8 rows only the cheapest of each operation is taken, or compiling would
    take minutes.
    """
    top = 1 if 1 < m <= BOTH_UP_TO else plan.top
    for arithmetic in ("half", "single") if m <= BOTH_UP_TO else ("auto",):
        for config in ours.likely(weights, m, torch.float16, arithmetic, top):
            yield arithmetic, "float16", config
    if m in OTHER_DTYPES and plan.device != "cpu":  # the interpreter reads bfloat16 wrongly
        for dtype in ("bfloat16", "float32"):
            kind = getattr(torch, dtype)
            for config in ours.likely(weights, m, kind, "auto", 1):
                yield "auto", dtype, config


def _near(what: str, got: torch.Tensor, exact: Any, size: Any, kind: str) -> None:
    found = got.double().cpu().numpy()
    if found.shape != exact.shape:
        raise Mismatch(f"{what}: {list(found.shape)} instead of {list(exact.shape)}")
    off = np.abs(found - exact)
    wrong = ~(off <= TERMS[kind] * size + 1e-30)  # NaN is wrong, too
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise Mismatch(
            f"{what}: {int(wrong.sum())} of {wrong.size} differ, the first at {list(place)}: "
            f"{found[place]:.6g}, not {exact[place]:.6g}"
        )
    norm = float(np.linalg.norm(off) / max(float(np.linalg.norm(exact)), 1e-30))
    if norm > NORMS[kind]:
        raise Mismatch(f"{what}: all together are off by {norm:.2g}, of at most {NORMS[kind]:.2g}")


def _same_bits(fmt: Format, what: str, got: torch.Tensor, want: Any) -> None:
    bits = {4: torch.int32, 2: torch.int16}[got.element_size()]
    found = got.view(bits).cpu().numpy().view(f"u{got.element_size()}")
    expected = want.view(found.dtype)
    if found.shape != expected.shape:
        raise Mismatch(f"{fmt.name}: {what}: {list(found.shape)}, not {list(expected.shape)}")
    wrong = found != expected
    if wrong.any():
        place = [int(i) for i in np.argwhere(wrong)[0]]
        raise Mismatch(
            f"{fmt.name} {list(found.shape)}: {what}: {int(wrong.sum())} of {wrong.size} differ, "
            f"the first at {place}: {found[tuple(place)]:#x}, not {expected[tuple(place)]:#x}"
        )


def _excuse(
    fmt: Format, x: Any, want: dict[str, Any], got: dict[str, Any], level: Any, stream: str
) -> None:
    """Back ends may choose another grid where both lose the same, to a millionth.

    Raises:
        Mismatch: there is no such excuse.
    """
    message = f"{fmt.name} {list(x.shape)}: the stream '{stream}' of encode"
    if len(fmt.grids) == 1:
        raise Mismatch(message)
    engine, length = ReferenceEngine(fmt), x.shape[1]
    spare = ((0, 0), (0, -length % fmt.block))
    decoded = [engine.decode(streams, length, level) for streams in (want, got)]
    lost = [
        np.square(np.pad(x - d.astype(np.float64), spare)).reshape(-1, fmt.block).sum(axis=1)
        for d in decoded
    ]
    others = np.abs(lost[0] - lost[1]) > 1e-6 * np.maximum(lost[0], lost[1])
    changed = np.pad(decoded[0] != decoded[1], spare).reshape(-1, fmt.block).any(axis=1)
    if others.any() or changed.sum() > EXCUSED * changed.size:
        raise Mismatch(f"{message}: {int(changed.sum())} of {changed.size} blocks")


def _blocks(poison: Poison, given: Given, device: torch.device) -> tuple[Any, Any, Any]:
    """What is given for blocks, on the device, between guards."""
    scales, selects, zeros = (
        _there(poison, array, device) for array in (given.scales, given.selects, given.zeros)
    )
    return scales, selects, zeros


def _there(poison: Poison, array: Any, device: torch.device) -> Any:
    return None if array is None else poison.guard(torch.from_numpy(np.array(array)).to(device))


@contextmanager
def _guarded(fmt: Format, what: str, device: torch.device) -> Iterator[Poison]:
    """Poisoned memory for one call; what its guards say is a mismatch of that call."""
    with Poison(device.type) as poison:
        yield poison
    try:
        poison.check()
    except Overrun as overrun:
        raise Mismatch(f"{fmt.name}: {what}: {overrun}") from overrun
