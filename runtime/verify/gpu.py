"""A format's GPU products, proven without a GPU: their inline assembly, and their twins."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ...codegen.triton.products import GROUP, methods_of
from ...codegen.triton.products.blocks import Blocks
from ...codegen.triton.products.decoded import Decoded, Mixed
from ...codegen.triton.snippets import Snippet
from ...compiler.format import Format
from ...compiler.kernel import kernel_format
from ...compiler.physical import BYTES, SUPER, PhysicalLayout, to_physical
from ...compiler.reference import calibrate
from ..backend import BackendUnavailable, ReferenceBackend
from .checks import Mismatch
from .inputs import random_rows
from .ptx import run

U32 = NDArray[np.uint32]

#: Values of weights: the interpreter takes a second for a kernel.
VALUES = 4096

#: Roundings of binary16 on the way of one product: x, the value, eight sums, the scale, a weight.
HALF_ROUNDINGS = 12

#: Roundings of binary32 on the way of one product in single arithmetic.
SINGLE_ROUNDINGS = 64


def snippets_agree(fmt: Format) -> int:
    """Inline assembly gives every code's value at every place of a word, under every grid."""
    kernel = _kernel(fmt)
    cases = 0
    for method in methods_of(kernel):
        if isinstance(method, Decoded) and not isinstance(method, Mixed):
            blocks = Blocks(kernel, method.base, method.power, not kernel.is_plain)
            snippet = method.snippet("gemm", blocks)
            for grid in range(len(method.base.grids)):
                cases += _decodes(method, snippet, grid)
    return cases


def products_agree(fmt: Format) -> int:
    """Interpreted products of random rows are as near to the exact ones as their texts say."""
    import torch

    from ..gpu.candidates import best_order
    from ..gpu.product import product
    from ..gpu.weights import to_device_weights

    _kernel(fmt)
    cases = 0
    for rows in random_rows(fmt, VALUES):
        w = np.ascontiguousarray(rows[:8])
        backend, level = ReferenceBackend(fmt), calibrate(fmt, w)
        streams = backend.encode(w, level)
        order = best_order(fmt, torch.device("cpu"))
        packed = to_device_weights(fmt, streams, w.shape, level, order, "cpu")
        decoded = backend.decode(streams, w.shape[1], level).astype(np.float64)
        x = np.random.default_rng(w.shape[1]).standard_normal((2, w.shape[1])).astype(np.float32)
        exact, size = x @ decoded.T, np.abs(x) @ np.abs(decoded).T
        for arithmetic, unit in (
            ("half", HALF_ROUNDINGS * 2.0**-11),
            ("single", SINGLE_ROUNDINGS * 2.0**-24),
        ):
            found = product(packed, torch.from_numpy(x), arithmetic=arithmetic).numpy()
            sure = size < np.finfo(np.float32).max / 4
            if (np.abs(found - exact) > unit * size + 1e-37)[sure].any():
                raise Mismatch(f"{arithmetic} arithmetic: {found} should be {exact}")
            cases += int(sure.sum())
        break  # one tensor: the others differ in what decoding has been checked for
    return cases


def _kernel(fmt: Format) -> Format:
    kernel = kernel_format(fmt)
    if kernel.block % GROUP:
        raise BackendUnavailable(f"products need blocks of a multiple of {GROUP} columns")
    return kernel


def _decodes(method: Decoded, snippet: Snippet, grid: int) -> int:
    """Run one method's assembly on every code at every place of a word."""
    bits = method.fmt.code_bits
    layout = PhysicalLayout(bits, method.order or BYTES)
    length = max(SUPER, 8 << bits)
    columns = layout.columns(length)
    wanted = (np.arange(len(columns))[:, None] + np.arange(8)[None, :]) % (1 << bits)
    codes = np.zeros((1, length), np.uint8)
    codes[0, columns] = wanted
    words = dict(zip(method.by.words, _words(to_physical(codes, layout, 0), layout), strict=True))
    inputs = [words.get(n, np.full(len(columns), grid, np.uint32)) for n in snippet.inputs]
    constraints = ",".join(["=r"] * 4 + list(snippet.inputs.values()))
    pairs = run("\n".join(snippet.ptx()), constraints, inputs)
    bits_of = np.stack([(pair >> shift) & 0xFFFF for pair in pairs for shift in (0, 16)], axis=1)
    halves = bits_of.astype(np.uint16).view(np.float16)
    expected = _halves(method, grid)[wanted]
    # A sum knows no sign of zero, and no encoder stores a code of no number.
    wrong = (halves != expected) & ~np.isnan(expected)
    if wrong.any():
        at = tuple(np.argwhere(wrong)[0])
        raise Mismatch(
            f"'{method.name}' decodes code {wanted[at]} at place {at[1]} to {halves[at]}, it "
            f"should be {expected[at]} (times 2^{method.power})"
        )
    return int(wanted.size)


def _words(planes: tuple[NDArray[np.uint8], ...], layout: PhysicalLayout) -> list[U32]:
    """The words of the planes of one row, as a kernel loads them."""
    words = []
    for plane, width in zip(planes, layout.planes, strict=True):
        if width == 8:
            words += [half.view("<u4") for half in plane.reshape(2, -1)]
        else:
            words.append(plane[0].view({4: "<u4", 2: "<u2", 1: np.uint8}[width]))
    return [word.astype(np.uint32) for word in words]


def _halves(method: Decoded, grid: int) -> NDArray[np.float16]:
    """Every code's value over the method's power, as binary16; NaN for no number."""
    unit = Fraction(2) ** -method.power
    values = method.base.grids[grid]
    return np.array([np.nan if v is None else float(v * unit) for v in values], np.float16)
