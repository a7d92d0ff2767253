"""Tensors packed in a format: quantize, dequantize, save, load."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._version import __version__
from ..compiler.reference import TensorLevel, calibrate, chunks
from ..compiler.resolve import compile_text
from ..compiler.sides import from_streams
from ..compiler.streams import stream_shapes
from ..dsl.diagnostics import FormatError
from .arrays import DTYPES, Rows, decoded_type, from_rows, to_rows
from .atomic import write_atomically
from .backend import F32, U8
from .choose import backend_for
from .errors import CorruptFile, RefusedInput, missing
from .format import Format

if TYPE_CHECKING:
    from .product import PackedRows

#: The key of a safetensors file's metadata that holds ours.
METADATA_KEY = "fmtc"

#: What a description says of a tensor; its SHA-256 covers all of this and the streams.
_DESCRIBED = ("format", "shape", "dtype", "framework", "tensor_scale", "shift")


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A tensor as packed bytes.

    Attributes:
        format: what the bytes mean.
        shape: the tensor's shape; the last axis is blocked.
        dtype: the name of its element type, which ``dequantize`` returns to.
        framework: ``numpy`` or ``torch``.
        level: the second scale level.
        streams: stream name -> uint8 [rows, bytes]; rows are all axes but the last.
    """

    format: Format
    shape: tuple[int, ...]
    dtype: str
    framework: str
    level: TensorLevel
    streams: Mapping[str, U8]
    device: str = field(default="cpu", compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy by what it was made of; a read-only mapping cannot be pickled."""
        level, streams = self.level, dict(self.streams)
        return _restore, (
            (self.format, self.shape, self.dtype, self.framework, level, streams, self.device),
        )

    @property
    def length(self) -> int:
        """Elements per row."""
        return self.shape[-1] if self.shape else 1

    @property
    def nbytes(self) -> int:
        """Stored bytes: every stream, and four for a second level where the format has one."""
        has_level = self.format.scale.tensor == "fp32" or self.format.scale.shift is None
        return sum(s.nbytes for s in self.streams.values()) + 4 * has_level

    @property
    def bpw(self) -> float:
        """Stored bits per element of this very tensor; NaN when it is empty."""
        count = math.prod(self.shape)
        return 8 * self.nbytes / count if count else math.nan

    def to_float32(self, *, backend: str = "auto") -> F32:
        """The decoded values: float32 [rows, length]."""
        return backend_for(self.format, backend).decode(dict(self.streams), self.length, self.level)

    def dequantize(self, *, backend: str = "auto") -> Any:
        """The tensor again, in its own framework, shape and dtype.

        Values are grid * scale rounded once to binary32, then to the dtype if it is narrower.
        """
        worker, dtype = backend_for(self.format, backend), decoded_type(self.dtype)
        values = worker.decode(dict(self.streams), self.length, self.level, dtype)
        return from_rows(values, self.shape, self.dtype, self.framework, self.device)

    def matmul(self, x: Any, *, activations: str = "float32", backend: str = "auto") -> Any:
        """Activations times the transpose of this tensor, without unpacking it.

        Args:
            x: floating NumPy array or torch tensor [..., n], where this tensor is [..., n].
            activations: ``float32``: they are what they are, and each sum is taken in a fixed
                order of binary32 operations; ``int8`` or ``hif8``: they are rounded in blocks
                first, and multiplied and summed as integers within a block.
            backend: see ``Format.quantize``.

        Returns:
            float32, of the shape of x without its last axis, then of this one's without its.

        Raises:
            NoIntegerProduct: the format's grids are no integers, and the activations shall be.
            TypeError: x is no floating array or tensor.
            ValueError: its last axis is another, or there are no such activations.
        """
        from .product import matmul

        return matmul(self.packed_rows(backend), self.shape, x, activations)

    def packed_rows(self, backend: str = "auto") -> PackedRows:
        """The rows as they are multiplied: made once, with what that takes."""
        from .product import PackedRows
        from .threads import processors

        made = self._packed_rows
        if backend not in made:
            engine = backend_for(self.format, backend).engine
            made[backend] = PackedRows(
                self.format, self.streams, self.length, self.level, engine, processors()
            )
        return made[backend]

    @cached_property
    def _packed_rows(self) -> dict[str, PackedRows]:
        return {}

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with the packed bytes, the .fmt text and the hashes.

        The file appears whole or not at all.

        Raises:
            MissingPackage: safetensors is not installed.
        """
        try:
            from safetensors.numpy import save
        except ImportError as error:
            raise missing("safetensors", "torch") from error
        text = json.dumps(describe_tensor(self), sort_keys=True)
        write_atomically(Path(path), save(dict(self.streams), {METADATA_KEY: text}))

    @staticmethod
    def load(path: str | Path) -> QuantizedTensor:
        """Read what ``save`` wrote.

        Raises:
            CorruptFile: the file is truncated, altered, or not of fmtc.
            FileNotFoundError: there is no such file.
        """
        try:
            from safetensors import SafetensorError
            from safetensors.numpy import load
        except ImportError as error:
            raise missing("safetensors", "torch") from error
        data = Path(path).read_bytes()
        try:
            streams = load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise CorruptFile(f"'{path}' is no whole safetensors file: {error}") from error
        try:
            description = json.loads(header["__metadata__"][METADATA_KEY])
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise CorruptFile(
                f"'{path}' was not written by fmtc: no '{METADATA_KEY}' entry"
            ) from error
        return rebuild(description, streams, str(path))


def quantize(fmt: Format, x: Any, *, backend: str = "auto", weights: Any = None) -> QuantizedTensor:
    """See ``Format.quantize``."""
    rows = to_rows(x)
    _check_records(fmt, rows)
    values, absmax = _admit(fmt, rows)
    counted = None if weights is None else _admit_weights(weights, rows.values.shape[1])
    worker = backend_for(fmt, backend)
    level = calibrate(fmt, values, absmax, worker.blocks)
    streams = worker.encode(values, level, counted)
    return _build(fmt, rows, level, streams)


def _build(fmt: Format, rows: Rows, level: TensorLevel, streams: dict[str, U8]) -> QuantizedTensor:
    for stream in streams.values():
        stream.setflags(write=False)
    return QuantizedTensor(
        fmt, rows.shape, rows.dtype, rows.framework, level, MappingProxyType(streams), rows.device
    )


def _restore(parts: tuple[Any, ...]) -> QuantizedTensor:
    fmt, shape, dtype, framework, level, streams, device = parts
    for stream in streams.values():
        stream.setflags(write=False)
    return QuantizedTensor(fmt, shape, dtype, framework, level, MappingProxyType(streams), device)


def _check_records(fmt: Format, rows: Rows) -> None:
    """Refuse a tensor whose rows do not divide into the format's records."""
    record, length = fmt.record, rows.values.shape[1]
    if record is not None and length % record.elements:
        raise RefusedInput(
            f"rows of {length} elements do not divide into records of {record.elements}, as the "
            f"layout of '{fmt.name}' asks: pad the last axis to a multiple of {record.elements}"
        )


def _admit_weights(weights: Any, length: int) -> F32:
    """float32 [length], finite and not negative.

    Raises:
        RefusedInput: they are not, or of another length.
    """
    rows = to_rows(weights)
    values = rows.values.reshape(-1)
    if values.size != length or not rows.seen.is_finite or (values < 0).any():
        raise RefusedInput(
            f"weights of the error are {length} finite numbers that are not negative, one for "
            f"each element of a row; these are {values.size}"
        )
    return values


def _admit(fmt: Format, rows: Rows) -> tuple[F32, float]:
    """The elements under the NaN and Inf policies, and their largest finite magnitude.

    A copy is made only where something changes in the caller's own memory.

    Raises:
        RefusedInput: a NaN or infinity that the format refuses, with its place.
    """
    policies, seen = fmt.policies, rows.seen
    if seen.is_finite:
        return rows.values, seen.absmax
    if seen.has_nan and policies.nan == "error":
        raise _refusal(fmt, rows, "a NaN", np.isnan)
    if seen.has_infinity and policies.inf == "error":
        raise _refusal(fmt, rows, "an infinity", np.isinf)
    if policies.nan == "propagate" and not seen.has_infinity:
        return rows.values, seen.absmax
    values = rows.values.copy() if rows.shared else rows.values
    largest = np.finfo(np.float32).max
    for place in chunks(fmt, *values.shape):
        piece = values[place]
        if policies.nan == "zero":
            piece[np.isnan(piece)] = 0
        np.clip(piece, -largest, largest, out=piece)
    return values, float(largest) if seen.has_infinity else seen.absmax


def _refusal(
    fmt: Format, rows: Rows, what: str, is_one: Callable[[F32], NDArray[np.bool_]]
) -> RefusedInput:
    """What to raise for the first element of which ``is_one`` is true."""
    where = _index(rows.shape, *_first(fmt, rows.values, is_one))
    setting = "nan zero" if what == "a NaN" else "inf saturate"
    rounded = rows.dtype == "float64" and what != "a NaN"
    return RefusedInput(
        f"the input has {what} at {where}{' (past 3.4e38 in fp32)' * rounded}, which the format "
        f"'{fmt.name}' refuses: say '{setting}' in the .fmt file, or clean the tensor"
    )


def _first(fmt: Format, x: F32, is_one: Callable[[F32], NDArray[np.bool_]]) -> tuple[int, int]:
    """Row and column of the first element of which ``is_one`` is true."""
    for place in chunks(fmt, *x.shape):
        found = is_one(x[place])
        if found.any():
            row, column = (int(i) for i in np.argwhere(found)[0])
            return place[0].start + row, place[1].start + column
    raise ValueError("there is no such element")


def _index(shape: tuple[int, ...], row: int, column: int) -> str:
    """The place of an element as it is indexed in the tensor: ``[1, 0, 7]``."""
    if not shape:
        return "[]"
    index = [column]
    for size in reversed(shape[:-1]):
        row, last = divmod(row, size)
        index.insert(0, last)
    return str(index)


def describe_tensor(q: QuantizedTensor) -> dict[str, Any]:
    """What must stand beside the streams so that ``rebuild`` can read and check them."""
    description: dict[str, Any] = {
        "fmtc": __version__,
        "format": {"name": q.format.name, "hash": q.format.content_hash, "text": q.format.source},
        "shape": list(q.shape),
        "dtype": q.dtype,
        "framework": q.framework,
        "tensor_scale": float(q.level.tensor_scale).hex(),
        "shift": q.level.shift,
    }
    return description | {"sha256": digest(description, q.streams)}


@lru_cache(maxsize=64)
def _compiled(text: str) -> Format:
    """The format of an embedded text: a checkpoint asks for the same one for every tensor."""
    return Format.of(compile_text(text, "embedded .fmt"))


def rebuild(
    description: Mapping[str, Any], streams: Mapping[str, NDArray[Any]], where: str
) -> QuantizedTensor:
    """Check streams against their description and make the tensor.

    Raises:
        CorruptFile: they do not belong together; ``where`` is named in the message.
    """
    try:
        if digest(description, streams) != description["sha256"]:
            raise CorruptFile(f"'{where}' does not match its SHA-256: the file was altered")
        text, stated_hash = description["format"]["text"], description["format"]["hash"]
        fmt = _compiled(text)
        shape = tuple(int(n) for n in description["shape"])
        level = TensorLevel(float.fromhex(description["tensor_scale"]), int(description["shift"]))
        dtype, framework = description["dtype"], description["framework"]
    except CorruptFile:
        raise
    except FormatError as error:
        raise CorruptFile(f"'{where}' holds a .fmt text with faults:\n{error}") from error
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise CorruptFile(f"'{where}' has a damaged description: {error!r}") from error
    if fmt.content_hash != stated_hash:
        raise CorruptFile(
            f"'{where}' was written for the format hash {stated_hash}, but its .fmt text means "
            f"{fmt.content_hash} to fmtc {__version__}: read it with fmtc {description.get('fmtc')}"
        )
    _check_shapes(fmt, shape, dtype, framework, streams, where)
    return _restore((fmt, shape, dtype, framework, level, dict(streams), "cpu"))


def _check_shapes(
    fmt: Format,
    shape: tuple[int, ...],
    dtype: str,
    framework: str,
    streams: Mapping[str, NDArray[Any]],
    where: str,
) -> None:
    if dtype not in DTYPES or framework not in ("numpy", "torch"):
        raise CorruptFile(f"'{where}' has the unknown element type '{framework} {dtype}'")
    length = shape[-1] if shape else 1
    rows = math.prod(shape[:-1])
    for name, expected in stream_shapes(fmt, rows, length).items():
        found = streams.get(name)
        if found is None or found.shape != expected or found.dtype != np.uint8:
            have = "absent" if found is None else f"{found.dtype} {found.shape}"
            raise CorruptFile(
                f"'{where}': the stream '{name}' should be uint8 {expected}, it is {have}"
            )
    for side in fmt.sides:
        try:
            from_streams(side, dict(streams), rows * length)
        except (KeyError, ValueError) as error:
            raise CorruptFile(f"'{where}': {error}") from error


def digest(description: Mapping[str, Any], streams: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over what is said of a tensor and all its streams, in the order of their names.

    Raises:
        KeyError: the description is not whole.
    """
    said = {key: description[key] for key in _DESCRIBED}
    total = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name in sorted(streams):
        total.update(name.encode() + b"\0")
        total.update(np.ascontiguousarray(streams[name]).data)
    return total.hexdigest()
