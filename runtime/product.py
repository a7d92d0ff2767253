"""Products of packed tensors and activations, by generated C where there is a compiler."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from ..codegen.c import emit_target
from ..codegen.c.products import emit_product_target
from ..codegen.c.structure import VALUES, nameless, take_apart
from ..codegen.c.targets import Target
from ..compiler.engine import Engine
from ..compiler.format import Format
from ..compiler.kernel import dense_format, kernel_format
from ..compiler.pipeline import decode
from ..compiler.product import (
    Activations,
    Given,
    activations_format,
    check_activations,
    given_of,
    integer_grids,
    product,
    quantize_activations,
)
from ..compiler.reference import TensorLevel
from ..compiler.streams import RECORDS
from .arguments import address, given_arguments, stream_arguments
from .arrays import from_rows, to_rows
from .backend import F32, U8
from .c_backend import CBackend
from .compile_cache import function_of, load_apart
from .memory import aligned_empty
from .threads import over_rows

_SIZE, _FLOAT, _POINTER = ctypes.c_size_t, ctypes.c_float, ctypes.c_void_p

#: What rows are made of: as they are stored, under given scales, decoded.
_ROWS = {
    "": [*[_POINTER, _SIZE] * 3, _FLOAT],
    "_given": [_POINTER, _SIZE, _POINTER, _POINTER, _POINTER, _SIZE],
    "_decoded": [_POINTER, _SIZE],
}

#: The arguments of rows from one on.
_Arguments = Callable[[int], list[Any]]


@dataclass(frozen=True, eq=False)
class PackedRows:
    """Packed rows to be multiplied, often: what their blocks are under is found once.

    Attributes:
        format: of the rows, any.
        streams: as a back end's ``encode`` makes them.
        length: elements per row.
        level: the tensor's second level.
        engine: does the elements; of a ``CBackend`` the products are C, too.
        threads: at most so many.
    """

    format: Format
    streams: Mapping[str, U8]
    length: int
    level: TensorLevel
    engine: Engine
    threads: int

    def product(self, x: F32, activations: str = "float32") -> F32:
        """Rows times activations: float32 [m, rows], the bits of ``compiler.product``.

        Args:
            x: float32 [m, length], finite where it is made integer.
            activations: what x is rounded to first: ``float32`` (it is left), ``int8`` or
                ``hif8``.

        Raises:
            NoIntegerProduct: the format's rows do not multiply as integers.
            ValueError: x does not fit, or there are no such activations.
        """
        check_activations(x, self.length, activations)
        if not isinstance(self.engine, CBackend):
            streams = dict(self.streams)
            return product(
                self.format, streams, self.length, self.level, x, activations, self.engine
            )
        functions = _functions(kernel_format(self.format), self.engine.target)
        if activations == "float32":
            factor = np.ascontiguousarray(x)
            return self._product(functions, "product", len(x), [address(factor), self.length])
        integer_grids(self.format)
        made = quantize_activations(
            x, activations, self.engine.inner(activations_format(activations))
        )
        prepared = functions.prepare(made, self.length)
        return self._product(functions, "integer_product", len(x), [address(prepared)])

    def _product(self, functions: _Functions, name: str, m: int, factor: list[int]) -> F32:
        kind, rows, arguments = self._rows()
        function = functions[f"{name}{kind}"]
        out = np.empty((m, rows), np.float32)

        def work(top: int, bottom: int) -> None:
            function(
                bottom - top,
                self.length,
                *arguments(top),
                m,
                *factor,
                address(out) + 4 * top,
                rows,
            )

        over_rows(work, rows, self.length, self.threads)
        return out

    def _rows(self) -> tuple[str, int, _Arguments]:
        """Of what kind the rows are, how many, and their arguments."""
        if self.format.sides:
            values = decode(self.format, dict(self.streams), self.length, self.level, self.engine)
            return "_decoded", len(values), lambda top: [address(values, top), self.length]
        if not dense_format(self.format).is_plain:
            given = self._given
            return "_given", len(given.codes), lambda top: _given_arguments(given, top)
        streams = self._checked
        multiplier = self.level.multiplier
        return (
            "",
            len(streams["codes"]),
            lambda top: [*stream_arguments(streams, top), multiplier],
        )

    @cached_property
    def _given(self) -> Given:
        given = given_of(self.format, dict(self.streams), self.length, self.level, self.engine)
        shape = (len(given.codes), -(-self.length // self.format.block))
        arrays = [a for a in (given.scales, given.selects, given.zeros) if a is not None]
        if any(a.shape != shape or not a.flags.c_contiguous for a in arrays):
            raise ValueError(f"what is given for blocks is not contiguous {list(shape)}")
        return given

    @cached_property
    def _checked(self) -> dict[str, U8]:
        """The streams of a plain format as contiguous rows that are long enough."""
        streams = dict(self.streams)
        if self.format.record is not None:
            streams = self.engine.blocks.from_records(self.format, streams[RECORDS], self.length)
        checked = {}
        for stream in dense_format(self.format).streams:
            octets = np.ascontiguousarray(streams[stream.name], np.uint8)
            needed = stream.row_bytes(self.length, self.format.block)
            if octets.ndim != 2 or octets.shape[1] < needed or len(octets) != len(streams["codes"]):
                raise ValueError(
                    f"the stream '{stream.name}' is {list(octets.shape)}, "
                    f"{self.length} elements need rows of {needed} bytes"
                )
            checked[stream.name] = octets
        return checked


def matmul(packed: PackedRows, shape: tuple[int, ...], x: Any, activations: str) -> Any:
    """Activations times the transpose of a packed tensor, in their own framework.

    Args:
        packed: the tensor's rows.
        shape: the tensor's shape, [..., n].
        x: floating NumPy array or torch tensor [..., n].
        activations: see ``PackedRows.product``.

    Returns:
        float32, of the shape of x without its last axis and then of ``shape`` without its.

    Raises:
        TypeError: x is no floating array or tensor.
        ValueError: see ``PackedRows.product``.
    """
    rows = to_rows(x)
    found = packed.product(rows.values, activations)
    outer = (*rows.shape[:-1], *shape[:-1])
    return from_rows(found, outer, "float32", rows.framework, rows.device)


class _Functions:
    """The products of one format for one target, compiled at first use."""

    def __init__(self, fmt: Format, target: Target) -> None:
        plain = nameless(fmt)
        files = emit_target(plain, target) | emit_product_target(plain, target)
        apart = take_apart(plain, files)
        self._library = load_apart(apart.shared, {VALUES: apart.values})
        self._prefix = f"{apart.symbol}_{target.name}_"

    def __getitem__(self, name: str) -> Callable[..., None]:
        """A product by the name it has in the C, without the format's and the target's."""
        kind = next(k for k in ("_given", "_decoded", "") if name.endswith(k))
        factor = [_POINTER] if name.startswith("integer") else [_POINTER, _SIZE]
        return self._function(name, [_SIZE, _SIZE, *_ROWS[kind], _SIZE, *factor, _POINTER, _SIZE])

    def prepare(self, a: Activations, length: int) -> U8:
        """Integer activations as this target takes them."""
        m = len(a.values)
        size = self._function("activations_bytes", [_SIZE, _SIZE], _SIZE)(m, length)
        prepared = aligned_empty((int(size),), np.uint8)
        values, scales = np.ascontiguousarray(a.values), np.ascontiguousarray(a.scales)
        self._function("activations", [_SIZE, _SIZE, *[_POINTER, _SIZE] * 2, _POINTER])(
            m,
            length,
            address(values),
            values.shape[1],
            address(scales),
            scales.shape[1],
            address(prepared),
        )
        return prepared

    def _function(
        self, name: str, arguments: list[Any], result: type | None = None
    ) -> Callable[..., Any]:
        return function_of(self._library, self._prefix + name, arguments, result)


@lru_cache(maxsize=64)
def _functions(fmt: Format, target: Target) -> _Functions:
    return _Functions(fmt, target)


def _given_arguments(given: Given, top: int) -> list[Any]:
    blocks = given.scales, given.selects, given.zeros
    return [address(given.codes, top), given.codes.shape[1], *given_arguments(blocks, top)]
