"""Product kernels, interpreted: the twin of every module against binary64, within stated errors.

What the errors are is derived in ``gpu_oracle.errors``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import ModuleType

import numpy as np
import pytest
from fmtc.compiler.format import Format
from fmtc.compiler.kernel import kernel_format
from fmtc.compiler.physical import BYTES, to_physical
from fmtc.compiler.product import Activations, given_of, integer_grids, integer_product
from fmtc.compiler.resolve import compile_text
from fmtc.formats import load, names
from gpu_oracle import F32, F64, Weight, errors, weight_of

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

from fmtc.codegen.triton.products import Method, methods_of  # noqa: E402
from fmtc.runtime.gpu import product as products  # noqa: E402
from fmtc.runtime.gpu.modules import method_named, product_module  # noqa: E402
from fmtc.runtime.gpu.tune import Candidate  # noqa: E402
from fmtc.runtime.gpu.weights import GpuWeights, to_device_weights  # noqa: E402

#: One of every kind of codes, blocks, scale words, select bits and offsets.
EACH_KIND = (
    "block_dialect",
    "bof4_16",
    "e2m3_ue4m4",
    "hif8_ue4m4",
    "int4_asym_g128",
    "lut3",
    "mxfp4",
    "mxfp8_e5m2",
    "nf5",
    "nvfp4_16x16",
    "po2_nf4",
    "q4_k",
    "sfp4",
    "sop_pair",
)

#: Formats whose every method is run.
EVERY_METHOD = ("po2_nf4", "nvfp4", "int4_sym_g128", "sfp4", "q4_k", "mixfp4", "lut3")

#: Kernels that no shipped format has.
ADHOC = {
    "block48": "block 48  grid e2m1  scale e4m3",
    "one_bit": "block 16  grid c = codebook 1 { -1, 1 }  scale e4m3",
    "two_bits": "block 32  grid c = codebook 2 { -3, -1, 1, 3 }  scale e8m0",
    "six_by_field": """block 16  grid e2m3  grid e3m2  scale e4m3
        select 1 bit at field { 0: e2m3, 1: e3m2 }""",
    "stored_select": """block 16  grid e2m1  grid i = int 4  scale fp16
        select 1 bit at field { 0: e2m1, 1: i }  error weighted""",
    "seven_point": """block 32  grid u = int 7 { range unsigned }  scale fp32 { rule range }
        zero point""",
    "two_minima": """block 16  grid u = int 2 { range unsigned }  scale fp32 { rule range }
        zero minimum""",
    "three_points": """block 48  grid u = int 3 { range unsigned }  scale fp32 { rule range }
        zero point""",
    "scaled_images": """block 32  grid a = codebook 2 { -3, -1, 1, 3 }
        grid b = codebook 2 { -12, -4, 4, 12 }  grid c = codebook 2 { -1, 0, 1, 2 }  scale e4m3
        select 2 bits at field { 0: a, 1: b, 2: c }""",
}

OPERATIONS = {
    "gemv": {"rows": 2, "units": 16, "warps": 1},
    "gemm": {"block_m": 16, "block_n": 16, "block_k": 256, "splits": 1, "warps": 4, "stages": 1},
    "expand": {"block_n": 16, "block_k": 512},
}


@cache
def format_of(name: str) -> Format:
    return compile_text(f'format {name} "" {{ {ADHOC[name]} }}') if name in ADHOC else load(name)


def admitted(fmt: Format, length: int) -> int:
    """A length near this that the format's records divide."""
    return length if fmt.record is None else -(-length // fmt.record.elements) * fmt.record.elements


@cache
def weight(name: str, rows: int = 4, length: int = 256) -> Weight:
    fmt = format_of(name)
    rng = np.random.default_rng(rows + length)
    w = rng.standard_normal((rows, admitted(fmt, length))) * 2.0 ** rng.integers(-3, 3, (rows, 1))
    return weight_of(fmt, w.astype(np.float32))


def on_device(made: Weight, method: Method) -> GpuWeights:
    order = method.order or BYTES
    return to_device_weights(made.fmt, made.streams, made.dense.shape, made.level, order, "cpu")


def activations(m: int, length: int, seed: int = 0) -> F32:
    """Rows of very different sizes, each with a few columns that stand out."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((m, length)) * 10.0 ** rng.integers(-3, 4, (m, 1))
    x[:, :: 7 + seed] *= 20
    return x.astype(np.float32)


def methods(name: str, operation: str, arithmetic: str = "half") -> list[Method]:
    """The methods of a format for an operation, the default one first."""
    wanted = "gemv" if operation == "gemv" else "gemm"
    found = methods_of(kernel_format(format_of(name)))
    return [m for m in found if wanted in m.operations and m.arithmetic == arithmetic]


def candidate(operation: str, method: Method, **config: int) -> Candidate:
    chosen = {"operation": operation, "method": method.name, **OPERATIONS[operation], **config}
    return Candidate(operation, chosen, 0.0)


def multiplied(
    made: Weight, method: Method, operation: str, x: torch.Tensor, **config: int
) -> tuple[F64, GpuWeights]:
    weights = on_device(made, method)
    chosen = candidate(operation, method, **config)
    y = products.product(weights, x, config=chosen, out_dtype=torch.float32)
    assert y.shape == (len(x), made.dense.shape[0])
    return y.numpy().astype(np.float64), weights


def module_of(weights: GpuWeights, method: Method, operation: str) -> ModuleType:
    wanted, order = "gemv" if operation == "gemv" else "gemm", weights.layout.order
    return product_module(weights.kernel, wanted, method.name, order, True, weights.given)


def exponent_of(weights: GpuWeights, method: Method, operation: str) -> int:
    if operation == "gemv":
        return 0
    module = product_module(
        weights.kernel, "gemm", method.name, weights.layout.order, True, weights.given
    )
    return products.half_exponent(weights, module.SCALE_SHIFT)


def check(made: Weight, method: Method, operation: str, x: F32, **config: int) -> None:
    """A product is as near to exact as it is said to be, and nearer than one wrong element."""
    y, weights = multiplied(made, method, operation, torch.from_numpy(x), **config)
    wide = x.astype(np.float64)
    exponent = exponent_of(weights, method, operation)
    proven, usual = errors(made, method, operation, wide, exponent)
    off = np.abs(y - wide @ made.dense.T)
    assert (off <= proven).all(), (off / proven).max()
    assert (off <= usual).all(), (off / usual).max()


# -- every format -----------------------------------------------------------------------


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", [*names(), *ADHOC])
def test_a_product_is_as_near_as_it_is_said_to_be(name: str, operation: str) -> None:
    gemv = operation == "gemv"
    made = weight(name, 2 if gemv else 4)
    for method in methods(name, operation)[:1]:
        check(made, method, operation, activations(1 if gemv else 16, made.length))


@pytest.mark.parametrize("name", [*EACH_KIND, *ADHOC])
def test_a_product_in_binary32_is_as_near_as_it_is_said_to_be(name: str) -> None:
    made = weight(name)
    (method,) = methods(name, "gemv", "single")
    check(made, method, "gemv", activations(2, made.length))


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_products_of_every_shipped_format(name: str) -> None:
    made = weight(name, 5, 384)
    for operation in OPERATIONS:
        for method in methods(name, operation)[:1]:
            for m in (1, 2, 8) if operation == "gemv" else (16, 33):
                check(made, method, operation, activations(m, made.length, m))
    (method,) = methods(name, "gemv", "single")
    for m in (1, 3, 8):
        check(made, method, "gemv", activations(m, made.length, m))


@pytest.mark.parametrize("name", EVERY_METHOD)
def test_a_gemm_by_every_method(name: str) -> None:
    made = weight(name)
    for method in methods(name, "gemm"):
        check(made, method, "gemm", activations(3, made.length))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*EVERY_METHOD, *ADHOC])
def test_a_gemv_by_every_method(name: str) -> None:
    made = weight(name, 5, 200)
    for method in methods(name, "gemv"):
        for m in (1, 3):
            check(made, method, "gemv", activations(m, made.length))
    for method in methods(name, "gemm"):
        check(made, method, "expand", activations(3, made.length))


@pytest.mark.parametrize("name", [*EACH_KIND, *ADHOC])
def test_every_weight_is_in_its_place(name: str) -> None:
    """An expanded matrix holds the weights, each within the roundings of one."""
    made = weight(name)
    method = methods(name, "gemm")[0]
    weights = on_device(made, method)
    exponent = exponent_of(weights, method, "expand")
    module = product_module(
        weights.kernel, "gemm", method.name, weights.layout.order, True, weights.given
    )
    with products.interpreting():
        half = module.expand(list(weights.planes), weights.blocks, made.length, exponent)
        # The columns are in the order that activations are prepared in.
        numbered = torch.arange(1, made.length + 1, dtype=torch.float32)[None]
        prepared, factor = module.prepare(numbered, half.shape[1] // 8)
    columns = (prepared[0].double() * factor[0].double()).numpy().astype(np.int64) - 1
    assert sorted(columns[columns >= 0]) == list(range(made.length))
    multiplier = 1.0 if weights.given else made.level.multiplier
    unit = multiplier * module.VALUE_POWER * 2.0**-exponent
    found = np.empty(made.dense.shape)
    found[:, columns[columns >= 0]] = half.numpy()[:, columns >= 0].astype(np.float64) * unit
    one = np.eye(made.length)
    proven, _ = errors(made, method, "expand", one, exponent)
    assert (np.abs(found - made.dense) <= proven.T).all()


# -- shapes -----------------------------------------------------------------------------


@pytest.mark.parametrize("length", [33, 130, 200])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("name", ["po2_nf4", "nvfp4_16x16", "e2m3_ue4m4", "int4_asym_g128"])
def test_rows_and_lengths_of_any_number(name: str, rows: int, length: int) -> None:
    made = weight(name, rows, length)
    x = activations(3, made.length)
    check(made, methods(name, "gemm")[0], "gemm", x)
    check(made, methods(name, "gemv", "single")[0], "gemv", x)


@pytest.mark.parametrize(("name", "length"), [("po2_nf4", 33), ("sfp4", 130), ("q5_0", 160)])
def test_a_gemv_of_any_length(name: str, length: int) -> None:
    made = weight(name, 1, length)
    check(made, methods(name, "gemv")[0], "gemv", activations(2, made.length), rows=1)


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 16, 33, 130, 200, 1000])
@pytest.mark.parametrize(
    "name", ["po2_nf4", "nvfp4", "nvfp4_16x16", "lut3", "sfp4", "int8_asym_row"]
)
def test_products_of_any_length(name: str, length: int) -> None:
    for rows in (1, 5):
        made = weight(name, rows, length)
        for operation in OPERATIONS:
            x = activations(2, made.length, rows)
            check(made, methods(name, operation)[0], operation, x)


@pytest.mark.parametrize("name", ["nvfp4", "q4_k"])
def test_many_steps_and_tiles_add_up(name: str) -> None:
    """Several steps of a GEMV, several tiles of a GEMM, split, the last one cut off."""
    made = weight(name, 2, 768)
    x = activations(2, made.length)
    check(made, methods(name, "gemv", "single")[0], "gemv", x, units=4, rows=2)
    gemm = methods(name, "gemm")[0]
    check(made, gemm, "gemm", x, block_k=512)
    check(made, gemm, "gemm", x, block_k=128, splits=4)
    check(made, gemm, "expand", x, block_k=256)
    check(made, methods(name, "gemv")[0], "gemv", x[:1], units=8, rows=2)


def test_of_nothing_the_product_is_nothing() -> None:
    made = weight("nvfp4")
    method = methods("nvfp4", "gemv")[0]
    weights = on_device(made, method)
    assert products.product(weights, torch.zeros((0, made.length))).shape == (0, 4)
    none = replace(weights, rows=0, planes=tuple(p[:0] for p in weights.planes))
    assert products.product(none, torch.zeros((2, made.length))).shape == (2, 0)


# -- activations ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_narrow_activations_and_results(operation: str, dtype: torch.dtype) -> None:
    """Products of narrow activations are those of the same numbers, rounded once more."""
    made = weight("po2_nf4", 2, 130)
    method = methods("po2_nf4", operation)[0]
    x = torch.from_numpy(activations(1, made.length)).to(dtype)
    weights = on_device(made, method)
    chosen = candidate(operation, method)
    y = products.run(weights, x, chosen, dtype)
    wide = products.run(weights, x.float(), chosen, torch.float32)
    assert y.dtype == dtype
    bits = {torch.float16: 11, torch.bfloat16: 8}[dtype]
    off = (y.double() - wide.double()).abs()
    assert (off <= wide.double().abs() * 2.0**-bits + 2.0**-25).all()
    if operation != "gemv" or dtype == torch.bfloat16:
        assert torch.equal(y, wide.to(dtype))


@pytest.mark.parametrize("operation", ["gemv", "gemm"])
@pytest.mark.parametrize("name", ["po2_nf4", "mxfp8_e5m2"])
def test_rows_of_any_size_do_not_touch_each_other(name: str, operation: str) -> None:
    """Huge, tiny, zero and subnormal rows are as near as any; NaN and infinity stay."""
    made = weight(name, 1)
    method = methods(name, operation)[0]
    x = activations(8, made.length)
    sizes = [1e30, 1e-30, 0.0, 1e-39, 6e4, 1.0, 1.0, 1.0]
    x *= (np.array(sizes) / np.abs(x).max(axis=1))[:, None].astype(np.float32)
    x[5, 17], x[6, 200] = np.nan, np.inf
    y, weights = multiplied(made, method, operation, torch.from_numpy(x))
    finite = np.isfinite(x).all(axis=1)
    assert not np.isfinite(y[~finite]).any()
    wide = x[finite].astype(np.float64)
    exponent = exponent_of(weights, method, operation)
    proven, _ = errors(made, method, operation, wide, exponent)
    assert (np.abs(y[finite] - wide @ made.dense.T) <= proven).all()
    assert not y[2].any()


def test_an_arithmetic_that_is_asked_for_is_taken() -> None:
    made = weight("nvfp4")
    weights = on_device(made, methods("nvfp4", "gemv")[0])
    x = torch.zeros((2, made.length))
    for arithmetic, dtype, wanted in (
        ("auto", torch.float32, "single"),
        ("auto", torch.float16, "half"),
        ("half", torch.float32, "half"),
        ("single", torch.bfloat16, "single"),
    ):
        (found,) = products.candidates(weights, 2, dtype, arithmetic)
        assert method_named(weights.kernel, str(found.config["method"])).arithmetic == wanted
    for wrong, text in ((x[:, 1:], "activations are"), (x.long(), "float32, float16")):
        with pytest.raises(ValueError, match=text):
            products.product(weights, wrong)
    with pytest.raises(ValueError, match="no arithmetic 'double'"):
        products.product(weights, x, arithmetic="double")


# -- memory -----------------------------------------------------------------------------


def amid(tensor: torch.Tensor, poison: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The tensor in the middle of a larger buffer, whose rest is filled; and the buffer."""
    around = 1 << 14
    whole = torch.full((tensor.numel() + 2 * around,), poison, dtype=tensor.dtype)
    inner = whole[around : around + tensor.numel()].view(tensor.shape)
    inner.copy_(tensor)
    return inner, whole


@pytest.mark.parametrize("operation", ["gemv", "gemm"])
@pytest.mark.parametrize("name", ["po2_nf4", "e2m3_ue4m4", "int4_asym_g128", "sfp4"])
def test_nothing_is_read_or_written_outside(name: str, operation: str) -> None:
    """Buffers amid NaN and 0xFF give what they give alone; only the result is written."""
    made = weight(name, 1, 144)
    method = methods(name, operation)[0]
    weights = on_device(made, method)
    x = torch.from_numpy(activations(2, made.length))
    chosen = candidate(operation, method)
    wanted = products.run(weights, x, chosen, torch.float32)
    surrounded = replace(
        weights,
        planes=tuple(amid(plane, 255)[0] for plane in weights.planes),
        blocks={
            key: amid(block, 255 if block.dtype == torch.uint8 else torch.nan)[0]
            for key, block in weights.blocks.items()
        },
    )
    out, buffer = amid(torch.full((2, 1), torch.nan), torch.nan)
    module = product_module(
        weights.kernel, operation, method.name, weights.layout.order, True, weights.given
    )
    call = products._CALLS[operation]
    with products.interpreting():
        multiplier = 1.0 if weights.given else weights.level.multiplier
        call(module, surrounded, amid(x, torch.nan)[0], multiplier, OPERATIONS[operation], out)
    assert torch.equal(out, wanted)
    assert torch.isnan(buffer).sum() == len(buffer) - 2


@pytest.mark.parametrize("name", ["po2_nf4", "q5_0", "int8_asym_row", "lut3"])
def test_what_pads_a_row_does_not_count(name: str) -> None:
    """Any code behind the end of a row meets a zero."""
    made = weight(name, 2, 160)
    for operation in ("gemm", "gemv"):
        method = methods(name, operation)[0]
        weights = on_device(made, method)
        zero = to_device_weights(
            made.fmt, made.streams, made.dense.shape, made.level, weights.layout.order, "cpu"
        )
        layout, kernel = weights.layout, weights.kernel
        bits = (1 << kernel.code_bits) - 1
        codes = np.full((2, layout.padded(made.length)), bits, np.uint8)
        codes[:, : made.length] = made.codes
        planes = tuple(torch.from_numpy(p) for p in to_physical(codes, layout, 0))
        assert any(not torch.equal(a, b) for a, b in zip(planes, zero.planes, strict=True))
        x = torch.from_numpy(activations(1, made.length))
        chosen = candidate(operation, method)
        found = [
            products.run(w, x, chosen, torch.float32) for w in (zero, replace(zero, planes=planes))
        ]
        assert torch.equal(*found)


# -- integers ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["int4_sym_g128", "mixfp4", "q4_k", "int3_asym_g128"])
def test_integer_products_are_those_of_the_arbiter_but_for_the_order_of_sums(name: str) -> None:
    made = weight(name, 2)
    (method,) = methods(name, "gemv", "integer")
    weights = on_device(made, method)
    assert products.multiplies_integers(weights)
    rng = np.random.default_rng(2)
    values = rng.integers(-127, 128, (1, made.length)).astype(np.int16)
    scales = (2.0 ** rng.integers(-8, 4, (1, made.length // 32))).astype(np.float32)
    y = products.integer_product(
        weights, torch.from_numpy(values.astype(np.int8)), torch.from_numpy(scales)
    )
    planar = dict(made.streams)
    given = given_of(made.fmt, planar, made.length, made.level)
    kernel = kernel_format(made.fmt)
    wanted = integer_product(
        kernel, integer_grids(kernel), given, Activations(values, scales), made.length
    )
    x = (values * np.repeat(scales, 32, axis=1)).astype(np.float64)
    exact = x @ made.dense.T
    _, terms = made.sizes(method.base)
    size = np.abs(x) @ (terms + np.abs(made.dense)).T
    assert (np.abs(y.numpy() - exact) <= 64 * 2.0**-24 * size).all()
    assert (np.abs(y.numpy() - wanted) <= 64 * 2.0**-24 * size).all()
