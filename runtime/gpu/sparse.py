"""Values at a few places of a weight, added to products: side streams on a device.

Sides (``compiler.sides``) replace some decoded elements or add to them. A product with the dense
codes lacks, for each such place, (what the element is) - (what it decodes to) times the
activation there; ``add_sparse`` adds that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...compiler.engine import Engine
from ...compiler.format import Format, Side
from ...compiler.product import Given
from ...compiler.sides import Sparse as Stored
from ...compiler.sides import add_residuals, from_streams, put_outliers

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

#: Elements that are decoded at once, to see what sides make of them.
STRIP = 1 << 22

#: Of a program: rows, values of each at a time, and warps.
ROWS, LANES, WARPS = 16, 32, 4

#: The interpreter takes milliseconds for a program whatever its size: rows and values of one.
INTERPRETED_ROWS, INTERPRETED_LANES = 1 << 10, 1 << 6

#: Values of one weight: they are counted in 32 bits.
MOST = (1 << 31) - 1

#: Blocks of rows of one launch: what CUDA takes of programs along the second axis.
_PROGRAMS = 65535


@dataclass(frozen=True, eq=False)
class Sparse:
    """What stands beside the dense codes of a weight, by its rows (CSR).

    Attributes:
        starts: int32 [rows + 1]: row r has the values from starts[r] up to starts[r + 1].
        columns: int32 [values], ascending in a row.
        deltas: float32 [values]: what the sides make of the element, less what its code decodes
            to, rounded once.
        length: elements of a row.
    """

    starts: torch.Tensor
    columns: torch.Tensor
    deltas: torch.Tensor
    length: int

    @property
    def rows(self) -> int:
        """Rows of the weight."""
        return len(self.starts) - 1

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(t.numel() * t.element_size() for t in (self.starts, self.columns, self.deltas))


def sparse_of(
    fmt: Format,
    streams: Mapping[str, U8],
    given: Given,
    length: int,
    engine: Engine,
    device: str | torch.device,
) -> Sparse:
    """What the sides of a format make of its elements, on a device.

    Args:
        fmt: a format with sides.
        streams: its side streams, among others.
        given: the dense codes and what their blocks are under (``compiler.product.given_of``).
        length: elements of a row.
        engine: decodes elements, for ``kernel_format(fmt)``.
        device: where it shall be.

    Raises:
        ValueError: a side stream is damaged, or there are 2^31 values.
    """
    rows = len(given.codes)
    stored = [(side, from_streams(side, dict(streams), rows * length)) for side in fmt.sides]
    index = np.unique(np.concatenate([sparse.index for _, sparse in stored]))
    if len(index) > MOST:
        raise ValueError(
            f"a weight has {len(index):,} values beside its codes, of at most {MOST:,}"
        )
    deltas = np.empty(len(index), np.float32)
    height = max(1, STRIP // max(1, length))
    for top in range(0, rows if len(index) else 0, height):
        bottom = min(rows, top + height)
        first, last = np.searchsorted(index, [top * length, bottom * length])
        if first == last:
            continue
        dense = _decoded(given, slice(top, bottom), length, engine)
        places = index[first:last] - top * length
        before = dense.reshape(-1)[places]
        for side, sparse in stored:
            _apply(side, _between(sparse, top * length, bottom * length), dense)
        with np.errstate(over="ignore", invalid="ignore"):
            deltas[first:last] = dense.reshape(-1)[places] - before
    starts = np.searchsorted(index, np.arange(rows + 1) * length)
    columns = index % max(1, length)
    return Sparse(
        torch.from_numpy(starts.astype(np.int32)).to(device),
        torch.from_numpy(columns.astype(np.int32)).to(device),
        torch.from_numpy(deltas).to(device),
        length,
    )


def add_sparse(y: torch.Tensor, x: torch.Tensor, sparse: Sparse) -> None:
    """Add what stands beside the codes to a product: y[m, r] += sum of delta * x[m, column].

    Sums are taken in binary32, in an order that depends on the weight alone, so that the same
    device gives the same bits again. On the CPU Triton's interpreter runs the same kernel.

    Args:
        y: float32 [m, rows], the dense product, with neighbours of a row side by side.
        x: floats [m, length] of any width, likewise.
        sparse: of a weight of ``rows`` rows, on the same device.

    Raises:
        ValueError: the shapes, types or devices do not fit.
    """
    _check(y, x, sparse)
    if not y.numel() or not len(sparse.deltas):
        return
    interpreted = y.device.type == "cpu"
    rows, lanes = (INTERPRETED_ROWS, INTERPRETED_LANES) if interpreted else (ROWS, LANES)
    if interpreted and x.dtype == torch.bfloat16:  # which it widens wrongly
        x = x.float()
    grid = (len(y), -(-sparse.rows // rows))
    options: dict[str, Any] = {} if interpreted else {"num_warps": WARPS, "enable_fp_fusion": True}
    with _place(y.device, interpreted):
        kernel(interpreted)[grid](
            y,
            x,
            sparse.starts,
            sparse.columns,
            sparse.deltas,
            sparse.rows,
            y.stride(0),
            x.stride(0),
            rows=rows,
            lanes=lanes,
            **options,
        )


@lru_cache(maxsize=2)
def kernel(interpreted: bool) -> Any:
    """The kernel, for a GPU or for Triton's interpreter: one process may use both.

    Raises:
        BackendUnavailable: triton is missing.
    """
    from ..triton_backend import require

    require()
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    from .sparse_kernel import add_sparse as function

    return InterpretedFunction(function) if interpreted else JITFunction(function)


def _place(device: torch.device, interpreted: bool) -> contextlib.AbstractContextManager[object]:
    """Where a kernel is launched: Triton takes the current device, whatever it is given."""
    from ..interpreting import interpreting

    return interpreting() if interpreted else torch.cuda.device(device)


def _check(y: torch.Tensor, x: torch.Tensor, sparse: Sparse) -> None:
    fits = y.ndim == x.ndim == 2 and len(y) == len(x)
    fits = fits and (y.shape[1], x.shape[1]) == (sparse.rows, sparse.length)
    if not fits or y.dtype != torch.float32 or not x.dtype.is_floating_point:
        raise ValueError(
            f"a product of {x.dtype} {list(x.shape)} with a weight of "
            f"{[sparse.rows, sparse.length]} is no {y.dtype} {list(y.shape)}"
        )
    if y.stride(1) != 1 or x.stride(1) != 1:
        raise ValueError("the neighbours of a row of y or x do not lie side by side")
    devices = {tensor.device for tensor in (y, x, sparse.deltas)}
    if len(devices) > 1:
        raise ValueError(f"a product lies on one device, not on {sorted(map(str, devices))}")
    if sparse.rows > _PROGRAMS * ROWS:
        raise ValueError(f"a weight with sides has at most {_PROGRAMS * ROWS:,} rows")


def _decoded(given: Given, strip: slice, length: int, engine: Engine) -> F32:
    """What the codes of some rows decode to: float32 [rows, length], to be written to."""
    decoded = engine.decode_given(
        np.ascontiguousarray(given.codes[strip]),
        given.scales[strip],
        None if given.selects is None else given.selects[strip],
        None if given.zeros is None else given.zeros[strip],
        length,
    )
    return np.require(decoded, np.float32, ["C", "W"])


def _between(sparse: Stored, first: int, last: int) -> Stored:
    """Those at places of the flattened tensor from ``first`` up to ``last``, counted from it."""
    part = slice(*np.searchsorted(sparse.index, [first, last]))
    return Stored(sparse.index[part] - first, sparse.words[part], sparse.scale)


def _apply(side: Side, sparse: Stored, decoded: F32) -> None:
    """As ``compiler.pipeline.decode`` does it, in place."""
    if side.kind == "opq":
        put_outliers(side, decoded, sparse)
    else:
        add_residuals(side, decoded, sparse)
