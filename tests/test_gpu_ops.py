"""``torch.ops.fmtc`` where kernels do the work: here on the CPU, which counts as a device, in
Triton's interpreter."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import fmtc
import fmtc.ops
import numpy as np
import pytest
import torch
from fmtc.compiler.reference import calibrate
from fmtc.compiler.thresholds import scale_thresholds
from fmtc.compiler.view import view_of
from fmtc.runtime.gpu import activations as activations_module
from fmtc.runtime.gpu import device as device_module
from fmtc.runtime.gpu import levels, ops, streams
from representatives import EACH_KIND
from torch import Tensor
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch_cases import MINE, OPS, gaussian, same_bits

#: Words, given scales, records, zero points, shifts of grids, sides.
FEW = ("po2_nf4", "nf4_dq", "q4_0", "int4_asym_g128", "sfp4", "nf4_dd4_opq_wr")
BLOCKWISE = [name for name in fmtc.names() if fmtc.load(name).is_blockwise]
ROWS, LENGTH = 8, 256
#: In a GEMM, which the interpreter runs quickly.
MANY = 9


@pytest.fixture
def device() -> Iterator[None]:
    with device_module.cpu_counts_as_device():
        yield


@cache
def weight(name: str, activations: str = "float32") -> tuple[tuple[Any, ...], Tensor]:
    """What ``product`` takes for a weight, and what the weight decodes to."""
    key = fmtc.ops.register(name)
    packed = OPS.encode(gaussian(ROWS, LENGTH, seed=1), key)
    laid = fmtc.ops.lay_out(packed, key, [ROWS, LENGTH], activations=activations)
    return laid, OPS.decode(packed, key, [ROWS, LENGTH], torch.float32)


def assert_near(y: Tensor, x: Tensor, dense: Tensor, bound: float) -> None:
    factors = x.detach().double(), dense.double().T
    sizes = factors[0].abs() @ factors[1].abs()
    allowed = bound * sizes + torch.finfo(y.dtype).eps * sizes
    assert ((y.detach().double() - factors[0] @ factors[1]).abs() <= allowed).all()


#: Of the sum of magnitudes, as the generated modules say.
HALF, SINGLE = 2.0**-9, 1e-6


# -- encode, decode, fake_quantize ---------------------------------------------------------------


@pytest.mark.parametrize("name", EACH_KIND)
def test_a_device_makes_the_bytes_of_the_host(name: str, device: None) -> None:
    x = gaussian(2, 3, 512, seed=3)
    q = fmtc.load(name).quantize(x)
    found = fmtc.ops.named(OPS.encode(x, name), name, x.shape)
    level = found.pop("level")
    assert level.view(torch.float32).tolist() == [[q.level.multiplier]]
    assert {k: t.numpy().tobytes() for k, t in found.items()} == {
        k: s.tobytes() for k, s in q.streams.items()
    }
    packed = [*found.values(), level]
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        got = OPS.decode(packed, name, x.shape, dtype)
        assert same_bits(got, q.dequantize().to(dtype))
    assert same_bits(OPS.fake_quantize(x, name), q.dequantize())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["nvfp4", "sop_pair", "e4m3_row"])
def test_elements_of_any_type_are_encoded_there(
    name: str, dtype: torch.dtype, device: None
) -> None:
    x = gaussian(6, 100, dtype=dtype).t()
    expected = fmtc.load(name).quantize(x).dequantize()
    y = OPS.fake_quantize(x, name)
    assert same_bits(y, expected)
    assert y.is_contiguous()


@pytest.mark.parametrize("shape", [(), (7,), (0, 64), (64, 0), (2, 3, 130)], ids=str)
@pytest.mark.parametrize("name", ["nvfp4", "sop_pair", "mxfp4", "e4m3_tile128"])
def test_tensors_of_odd_shapes_are_encoded_there(
    name: str, shape: tuple[int, ...], device: None
) -> None:
    x = gaussian(*shape)
    with_host = fmtc.load(name).quantize(x)
    key, expected = fmtc.ops.from_quantized(with_host)
    found = OPS.encode(x, key)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert same_bits(OPS.decode(found, key, shape, x.dtype), with_host.dequantize())


@pytest.mark.parametrize("size", [1.0, 1e-42, 3e38, 0.0])
@pytest.mark.parametrize("names", [BLOCKWISE[i::4] for i in range(4)], ids=range(4))
def test_a_level_and_its_thresholds_are_found_on_the_device(names: list[str], size: float) -> None:
    rng = np.random.default_rng(5)
    x = (rng.standard_normal((5, 70)) * size).clip(-3.4e38, 3.4e38).astype(np.float32)
    for name in names:
        fmt = fmtc.load(name)
        level = calibrate(fmt, x)
        found = levels.level_on(fmt, torch.from_numpy(x))
        assert found.item() == level.multiplier, name
        if not view_of(fmt).scale.is_fp32:
            table = levels.thresholds_on(fmt, found).numpy()
            assert table.tobytes() == scale_thresholds(view_of(fmt), level.multiplier).tobytes()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_device_refuses_what_the_host_refuses(value: float, device: None) -> None:
    x = gaussian(3, 64)
    x[1, 7] = value
    with pytest.raises(fmtc.RefusedInput, match=re.escape("[1, 7]")):
        OPS.encode(x, "nf4")
    with pytest.raises(fmtc.RefusedInput, match="do not divide into records"):
        OPS.encode(gaussian(3, 40), "q4_0")


@pytest.mark.parametrize("policies", ["nan zero", "inf saturate", "nan zero  inf saturate"])
def test_a_device_keeps_the_policies(policies: str, device: None) -> None:
    key = fmtc.ops.register(
        f"format p {{ block 16  grid e2m1  scale e4m3 {{ tensor fp32 }}  {policies} }}"
    )
    for dtype in (torch.float32, torch.float16):
        x = gaussian(3, 64, dtype=dtype)
        if "nan" in policies:
            x[1, 7] = torch.nan
        if "inf" in policies:
            x[2, 5], x[0, 1] = torch.inf, -torch.inf
        expected = fmtc.ops.format_of(key).quantize(x).dequantize()
        assert same_bits(OPS.fake_quantize(x, key), expected)


def test_a_device_propagates_a_nan(device: None) -> None:
    x = gaussian(3, 64)
    x[1, 7] = torch.nan
    y = OPS.fake_quantize(x, "mxfp4")
    assert same_bits(y, fmtc.load("mxfp4").quantize(x).dequantize())


def test_a_format_that_the_host_makes_is_made_there(device: None) -> None:
    fmt = fmtc.load("nf4_dd4_opq_wr")
    assert not streams.encodes_there(fmt)
    x = gaussian(4, 256)
    assert same_bits(OPS.fake_quantize(x, fmt.name), fmt.quantize(x).dequantize())


# -- products ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arithmetic"),
    [*((name, "half") for name in FEW), ("int4_asym_g128", "single"), (FEW[-1], "single")],
)
def test_a_product_is_that_of_the_decoded_weight(name: str, arithmetic: str) -> None:
    laid, dense = weight(name)
    x = gaussian(3, 3, LENGTH)
    y = OPS.product(x, *laid, arithmetic, "float32")
    assert (y.shape, y.dtype) == ((3, 3, ROWS), x.dtype)
    assert_near(y, x, dense, HALF if arithmetic == "half" else SINGLE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_product_has_the_type_of_its_activations(dtype: torch.dtype) -> None:
    laid, dense = weight("nvfp4")
    x = gaussian(MANY, LENGTH, dtype=dtype)
    y = OPS.product(x, *laid, "auto", "float32")
    assert y.dtype == dtype
    assert_near(y, x, dense, HALF)


def test_one_vector_is_multiplied_too() -> None:
    laid, dense = weight("po2_nf4")
    x = gaussian(LENGTH)
    y = OPS.product(x, *laid, "half", "float32")
    assert y.shape == (ROWS,)
    assert_near(y[None], x[None], dense, HALF)


@pytest.mark.parametrize("shape", [(0, LENGTH), (2, 0, LENGTH)])
def test_no_activations_have_an_empty_product(shape: tuple[int, ...]) -> None:
    laid, _ = weight("nvfp4")
    for activations in ("float32", "int8", "fp8"):
        y = OPS.product(torch.zeros(shape), *laid, "auto", activations)
        assert y.shape == (*shape[:-1], ROWS)


@pytest.mark.parametrize("name", FEW)
def test_a_weight_is_decoded_from_its_layout(name: str) -> None:
    laid, dense = weight(name)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        found = OPS.unpacked(*laid, dtype)
        assert found.dtype == dtype
        if fmtc.load(name).sides:
            torch.testing.assert_close(found.float(), dense.to(dtype).float())
        else:
            assert same_bits(found, dense.to(dtype))


@pytest.mark.parametrize("name", FEW)
def test_the_gradient_is_that_of_the_decoded_weight(name: str) -> None:
    laid, dense = weight(name)
    for dtype in (torch.float32, torch.float16):
        x = gaussian(MANY, LENGTH, dtype=dtype).requires_grad_()
        gradient = gaussian(MANY, ROWS, seed=2, dtype=dtype)
        OPS.product(x, *laid, "half", "fp8").backward(gradient)
        torch.testing.assert_close(x.grad, gradient @ dense.to(dtype), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["nvfp4", "nf4_dd4_opq_wr"])
def test_torch_finds_no_fault_with_the_operators(name: str) -> None:
    laid, _ = weight(name)
    x = gaussian(MANY, LENGTH).requires_grad_()
    opcheck(OPS.product.default, (x, *laid, "half", "mxfp4"))
    opcheck(OPS.unpacked.default, (*laid, torch.bfloat16))


@pytest.mark.usefixtures("fresh")
def test_one_compilation_serves_any_number_of_rows() -> None:
    laid, _ = weight("nvfp4")
    graphs = []

    def count(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    def program(x: Tensor) -> Tensor:
        return OPS.product(x * 2, *laid, "half", "float32").relu()

    compiled = torch.compile(program, fullgraph=True, dynamic=True, backend=count)
    for m in (9, 10, 33):
        x = gaussian(m, LENGTH)
        assert torch.equal(compiled(x), program(x))
    assert len(graphs) == 1


@pytest.mark.usefixtures("fresh")
def test_inductor_compiles_a_product_and_its_gradient() -> None:
    laid, _ = weight("nvfp4")

    def loss(x: Tensor) -> Tensor:
        return OPS.product(x, *laid, "half", "fp8").square().mean()

    compiled = torch.compile(loss, fullgraph=True, backend="inductor")
    gradients = []
    for function in (loss, compiled):
        x = gaussian(MANY, LENGTH).requires_grad_()
        function(x).backward()
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[1], gradients[0])


def test_what_does_not_fit_is_refused() -> None:
    laid, _ = weight("nvfp4")
    x = gaussian(MANY, LENGTH)
    with pytest.raises(ValueError, match="no arithmetic 'double'"):
        OPS.product(x, *laid, "double", "float32")
    with pytest.raises(ValueError, match="no activations 'int3'"):
        OPS.product(x, *laid, "half", "int3")
    with pytest.raises(ValueError, match=r"not \[out features, in features\]"):
        OPS.product(x[:, :-1], *laid, "half", "float32")
    with pytest.raises(TypeError, match=r"floats, not torch\.int32"):
        OPS.product(x.int(), *laid, "half", "float32")
    planes, _, *rest = laid
    with pytest.raises(ValueError, match="has the tensors scales for its blocks"):
        OPS.product(x, planes, [], *rest, "half", "float32")


def test_a_weight_is_taken_apart_and_put_together_without_a_copy() -> None:
    key = "nf4_dd4_opq_wr"
    packed = OPS.encode(gaussian(ROWS, LENGTH, seed=1), key)
    parts = fmtc.ops.named(packed, key, [ROWS, LENGTH])
    multiplier = float(parts.pop("level").view(torch.float32))
    laid, tensors = ops.lay_out(parts, key, (ROWS, LENGTH), multiplier, torch.device("cpu"))
    whole = ops.put_together(laid, tensors)
    assert all(a is b for a, b in zip(whole.planes, tensors.planes, strict=True))
    assert whole.sparse is not None
    assert whole.sparse.deltas is tensors.sides[2]
    back = whole.to_canonical()
    assert back.keys() == parts.keys()
    assert all(torch.equal(back[name], parts[name]) for name in parts)


# -- activations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["int8", "hif8", "fp8", "mxfp4", "nvfp4", "sop_pair", MINE])
def test_activations_are_what_their_format_makes_of_them(name: str, device: None) -> None:
    key = activations_module.activations_key(name)
    fmt = activations_module.format_for(key)
    assert fmt is not None
    laid, dense = weight("nvfp4")
    x = gaussian(MANY, LENGTH)
    expected = fmt.quantize(x).dequantize()
    assert same_bits(activations_module.rounded(x, key), expected)
    y = OPS.product(x, *laid, "half", key)
    assert torch.equal(y, OPS.product(expected, *laid, "half", "float32"))
    assert_near(y, expected, dense, HALF)


@pytest.mark.parametrize("activations", ["fp8", "mxfp4", "nvfp4"])
@pytest.mark.parametrize("forced", [False, True], ids=["host", "device"])
def test_linear_takes_activations_of_any_format(activations: str, forced: bool) -> None:
    fmt = activations_module.format_for(activations)
    packed = OPS.encode(gaussian(ROWS, LENGTH, seed=1), "po2_nf4")
    x = gaussian(2, 3, LENGTH)
    rest = packed, "po2_nf4", [ROWS, LENGTH]
    expected = OPS.linear(fmt.quantize(x).dequantize(), *rest, "float32")
    if not forced:
        assert torch.equal(OPS.linear(x, *rest, activations), expected)
        return
    with device_module.cpu_counts_as_device():
        torch.testing.assert_close(OPS.linear(x, *rest, activations), expected)


@pytest.mark.parametrize("name", ["mxfp4", "int4_asym_g128", "iq4_nl"])
def test_a_few_int8_vectors_are_multiplied_as_integers(name: str, device: None) -> None:
    laid, dense = weight(name, "int8")
    x = gaussian(2, LENGTH)
    fmt = activations_module.format_for("int8")
    assert fmt is not None
    assert_near(OPS.product(x, *laid, "half", "int8"), fmt.quantize(x).dequantize(), dense, SINGLE)


@pytest.mark.parametrize(("activations", "m"), [("int8", 1), ("int8", 9), ("mxfp4", 9)])
def test_a_nan_makes_its_own_row_nan(activations: str, m: int, device: None) -> None:
    laid, _ = weight("mxfp4", "int8")
    x = gaussian(m, LENGTH)
    x[0, 7] = torch.nan
    y = OPS.product(x, *laid, "half", activations)
    assert y[0].isnan().all()
    assert y[1:].isfinite().all()


# -- what a CUDA graph asks ----------------------------------------------------------------------


class NoWaiting(TorchDispatchMode):
    """Refuses what would make the host wait for a GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "unique")
        name = func._schema.name.removeprefix("aten::")
        if name == "lift_fresh":  # a list becomes a tensor; a number goes with the launch
            assert args[0].ndim == 0, f"{name} waits for the device"
        assert name not in waits, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


def test_what_waits_is_found() -> None:
    x = gaussian(4)
    for waits in (lambda: float(x.sum()), lambda: bool(x.any())):
        with NoWaiting(), pytest.raises(AssertionError, match="waits for the device"):
            waits()
    with NoWaiting(), pytest.raises(AssertionError, match="waits for the device"):
        torch.tensor([1.0])


@pytest.mark.parametrize(
    ("name", "activations"),
    [
        *(("nvfp4", key) for key in ("float32", "fp8", "nvfp4", "sop_pair", "int8")),
        *(("nf4_dd4_opq_wr", "fp8"), ("q4_k", "fp8")),
    ],
)
def test_a_product_never_waits_for_the_device(name: str, activations: str, device: None) -> None:
    laid, _ = weight(name)
    x = gaussian(MANY, LENGTH)
    body = ops.packed_product._init_fn
    expected = body(x, *laid, "half", activations)
    with NoWaiting():
        y = body(x, *laid, "half", activations)
    assert torch.equal(y, expected)


def test_a_weight_is_decoded_without_waiting() -> None:
    for name in ("mxfp8_e4m3", "e4m3_row"):
        laid, _ = weight(name)
        ops.unpacked._init_fn(*laid, torch.float16)
        with NoWaiting():
            ops.unpacked._init_fn(*laid, torch.float16)


@pytest.mark.parametrize("name", ["nvfp4", "sop_pair", "mxfp4", "four_six"])
def test_a_captured_tensor_is_encoded_and_decoded_without_waiting(
    name: str, device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "is_capturing", lambda _: True)
    x = gaussian(6, 96)
    expected = fmtc.load(name).quantize(x).dequantize()
    OPS.fake_quantize(x, name)  # which leaves tables on the device
    with NoWaiting():
        packed = fmtc.ops.encode._init_fn(x, name)
        y = fmtc.ops.decode._init_fn(packed, name, x.shape, x.dtype)
    assert same_bits(y, expected)


def test_the_first_call_on_a_gpu_is_made_in_another_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    device_module.apart(lambda: calls.append(threading.get_ident()), torch.device("cpu"))
    assert len(calls) == 1
    assert calls[0] != threading.get_ident()

    def fails() -> None:
        raise KeyError("why")

    with pytest.raises(KeyError, match="why"):
        device_module.apart(fails, torch.device("cpu"))


def test_a_graph_of_fake_tensors_needs_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    laid, _ = weight("nvfp4")
    monkeypatch.setattr(ops, "product", None)
    meta = [[t.to("meta") for t in group] for group in laid[:3]]
    y = OPS.product(gaussian(2, 3, LENGTH).to("meta").half(), *meta, *laid[3:], "auto", "fp8")
    assert (y.device.type, y.dtype, tuple(y.shape)) == ("meta", torch.float16, (2, 3, ROWS))


def test_whether_the_host_works_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setattr(device_module, "_has_triton", True)
    assert device_module.on_device(cuda)
    assert not device_module.on_device(torch.device("cpu"))
    monkeypatch.setattr(device_module, "_has_triton", False)
    monkeypatch.setattr(device_module, "_warned", False)
    assert not device_module.on_device(cuda)
    with pytest.warns(RuntimeWarning, match="triton is not installed"):
        device_module.say_that_host_works(cuda)
    device_module.say_that_host_works(cuda)
    device_module.say_that_host_works(torch.device("cpu"))
