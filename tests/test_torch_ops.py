"""``torch.ops.fmtc``: the bits of ``quantize`` in eager, compiled and differentiated programs."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fmtc
import fmtc.ops
import pytest
import torch
from fmtc.compiler.product import product
from hypothesis import given, settings
from hypothesis import strategies as st
from representatives import ANY_SHAPE, EACH_KIND
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck
from torch_cases import MINE, OPS, gaussian, same_bits

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
#: Plain, stored in another format, records, rows, tiles, and sides whose size the data decides.
FEW = ("po2_nf4", "nf4_dq", "q4_0", "e4m3_row", "e4m3_tile128", "nf4_dd4_opq_wr")


def there_and_back(x: Tensor, key: str) -> Tensor:
    return OPS.decode(OPS.encode(x, key), key, x.shape, x.dtype)


# -- the same bits as quantize and dequantize --------------------------------------------------


@pytest.mark.parametrize("name", EACH_KIND)
def test_the_operators_give_the_bits_of_quantize_and_dequantize(name: str) -> None:
    x = gaussian(5, 512)
    q = fmtc.load(name).quantize(x)
    streams = OPS.encode(x, name)
    named = fmtc.ops.named(streams, name, x.shape)
    assert tuple(named) == fmtc.ops.stream_names(name)
    level = named.pop("level")
    assert set(named) == set(q.streams)
    for stream, octets in named.items():
        assert octets.numpy().tobytes() == q.streams[stream].tobytes()
        assert tuple(octets.shape) == q.streams[stream].shape
    assert level.view(torch.float32).tolist() == [[q.level.multiplier]]
    for dtype in (torch.float32, torch.float64):
        assert same_bits(OPS.decode(streams, name, x.shape, dtype), q.dequantize().to(dtype))
    assert same_bits(OPS.fake_quantize(x, name), q.dequantize())


@pytest.mark.parametrize("name", EACH_KIND)
def test_a_packed_tensor_goes_to_the_operators_and_back(name: str) -> None:
    x = gaussian(3, 512, seed=1, dtype=torch.bfloat16)
    q = fmtc.load(name).quantize(x)
    key, streams = fmtc.ops.from_quantized(q)
    assert all(torch.equal(a, b) for a, b in zip(streams, OPS.encode(x, key), strict=True))
    back = fmtc.ops.to_quantized(streams, key, x.shape, torch.bfloat16)
    assert (back.format, back.shape, back.dtype, back.level) == (
        q.format,
        q.shape,
        q.dtype,
        q.level,
    )
    assert torch.equal(back.dequantize(), q.dequantize())


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    name=st.sampled_from(ANY_SHAPE),
    shape=st.lists(st.sampled_from([0, 1, 2, 3, 17, 64]), max_size=4),
    dtype=st.sampled_from(DTYPES),
    turned=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_shape_type_and_layout_is_taken(
    name: str, shape: list[int], dtype: torch.dtype, turned: bool, seed: int
) -> None:
    x = gaussian(*shape, seed=seed, dtype=dtype)
    if turned and x.ndim > 1:
        x = x.transpose(0, -1)
    before = x.clone()
    expected = fmtc.load(name).quantize(x).dequantize()
    y = OPS.fake_quantize(x, name)
    assert (y.dtype, y.shape, y.is_contiguous()) == (dtype, x.shape, True)
    assert same_bits(y, expected)
    assert same_bits(there_and_back(x, name), expected)
    assert same_bits(x, before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_decode_rounds_once_more_to_a_narrower_type(dtype: torch.dtype) -> None:
    x = gaussian(7, 80)
    streams = OPS.encode(x, "nvfp4")
    y = OPS.decode(streams, "nvfp4", x.shape, dtype)
    assert same_bits(y, OPS.decode(streams, "nvfp4", x.shape, torch.float32).to(dtype))


def test_streams_are_read_whatever_their_layout() -> None:
    x = gaussian(6, 64)
    streams = OPS.encode(x, "po2_nf4")
    turned = [stream.t().contiguous().t() for stream in streams]
    assert torch.equal(
        OPS.decode(turned, "po2_nf4", x.shape, x.dtype),
        OPS.decode(streams, "po2_nf4", x.shape, x.dtype),
    )


def test_calls_from_many_threads_give_the_same_bits() -> None:
    x = gaussian(16, 256)

    def work(index: int) -> Tensor:
        key = fmtc.ops.register(MINE if index % 2 else "nvfp4")
        return there_and_back(x, key) + OPS.fake_quantize(x, "nf4")

    expected = work(0), work(1)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(24)))
    assert all(same_bits(found, expected[i % 2]) for i, found in enumerate(results))


# -- what the dispatcher, autograd and the compiler ask of an operator ---------------------------


@pytest.mark.parametrize("name", FEW)
def test_torch_finds_no_fault_with_the_operators(name: str) -> None:
    x = gaussian(3, 256).requires_grad_()
    weight = gaussian(4, 256, seed=1)
    streams, shape = OPS.encode(weight, name), list(weight.shape)
    opcheck(OPS.encode.default, (x, name))
    opcheck(OPS.decode.default, (streams, name, shape, torch.bfloat16))
    opcheck(OPS.fake_quantize.default, (x, name))
    opcheck(OPS.linear.default, (x, streams, name, shape, "float32"))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 5), (2, 1, 3, 33)], ids=str)
def test_torch_finds_no_fault_with_tensors_of_odd_shapes(shape: tuple[int, ...]) -> None:
    x = gaussian(*shape).requires_grad_()
    opcheck(OPS.encode.default, (x, "nvfp4"))
    opcheck(OPS.decode.default, (OPS.encode(x, "nvfp4"), "nvfp4", list(shape), torch.float32))
    opcheck(OPS.fake_quantize.default, (x, "nvfp4"))


@pytest.mark.parametrize("shape", [(), (7,), (0, 64), (64, 0), (5, 512), (2, 3, 130)], ids=str)
@pytest.mark.parametrize("name", EACH_KIND)
def test_fake_tensors_have_the_shapes_of_real_ones(name: str, shape: tuple[int, ...]) -> None:
    fmt = fmtc.load(name)
    if fmt.sides or (fmt.record and (not shape or shape[-1] % fmt.record.elements)):
        shape = (2, 512)
    x = gaussian(*shape)
    real = OPS.encode(x, name)
    with FakeTensorMode(shape_env=torch.fx.experimental.symbolic_shapes.ShapeEnv()) as mode:
        fake = OPS.encode(mode.from_tensor(x, static_shapes=True), name)
    assert len(fake) == len(real)
    for stream, a, b in zip(fmtc.ops.stream_names(name), fake, real, strict=True):
        assert (a.dtype, a.device) == (b.dtype, b.device)
        if not stream.endswith((".index", ".values")):
            assert (tuple(a.shape), a.stride()) == (tuple(b.shape), b.stride())


def test_meta_tensors_pass_where_the_shape_decides_all() -> None:
    x = torch.empty(4, 64, device="meta", dtype=torch.bfloat16)
    streams = OPS.encode(x, "nvfp4")
    assert [tuple(s.shape) for s in streams] == [(4, 32), (4, 4), (1, 4)]
    assert all(s.is_meta for s in streams)
    y = OPS.linear(x, streams, "nvfp4", [4, 64], "float32")
    assert (y.device.type, y.dtype, tuple(y.shape)) == ("meta", torch.bfloat16, (4, 4))
    with pytest.raises(RuntimeError, match="data-dependent shape"):
        OPS.encode(x, "nf4_dd4_opq_wr")


@pytest.mark.parametrize("name", EACH_KIND)
@pytest.mark.usefixtures("fresh")
def test_a_whole_graph_compiles_and_gives_the_eager_bits(name: str) -> None:
    def program(x: Tensor) -> tuple[Tensor, Tensor]:
        streams = OPS.encode(x * 2, name)
        return OPS.decode(streams, name, x.shape, x.dtype), OPS.fake_quantize(x + 1, name)

    compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
    x = gaussian(3, 512)
    assert all(same_bits(a, b) for a, b in zip(compiled(x), program(x), strict=True))


@pytest.mark.usefixtures("fresh")
def test_one_compilation_serves_every_length() -> None:
    graphs = []

    def count(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(
        lambda x: there_and_back(x, "po2_nf4") + OPS.fake_quantize(x, "nf4_dq"),
        fullgraph=True,
        dynamic=True,
        backend=count,
    )
    for rows, length in ((3, 50), (4, 64), (9, 333)):
        x = gaussian(rows, length)
        expected = there_and_back(x, "po2_nf4") + OPS.fake_quantize(x, "nf4_dq")
        assert torch.equal(compiled(x), expected)
    assert len(graphs) == 1


@pytest.mark.usefixtures("fresh")
def test_inductor_compiles_a_training_step() -> None:
    streams = OPS.encode(gaussian(32, 64, seed=2), "mxfp4")

    def loss(x: Tensor, weight: Tensor) -> Tensor:
        hidden = OPS.linear(x, streams, "mxfp4", [32, 64], "float32").relu()
        return (hidden @ OPS.fake_quantize(weight, "po2_nf4").T).square().mean()

    compiled = torch.compile(loss, fullgraph=True, backend="inductor")
    gradients = []
    for function in (loss, compiled):
        x, weight = gaussian(8, 64).requires_grad_(), gaussian(16, 32).requires_grad_()
        function(x, weight).backward()
        gradients.append((x.grad, weight.grad))
    for eager, fused in zip(*gradients, strict=True):
        torch.testing.assert_close(fused, eager)


# -- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FEW)
def test_the_gradient_passes_straight_through(name: str, dtype: torch.dtype) -> None:
    x = gaussian(3, 256, dtype=dtype).requires_grad_()
    gradient = gaussian(3, 256, seed=1, dtype=dtype)
    OPS.fake_quantize(x, name).backward(gradient)
    assert x.grad is not None
    assert same_bits(x.grad, gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", FEW)
def test_linear_and_its_gradient_are_those_of_the_decoded_weight(
    name: str, dtype: torch.dtype
) -> None:
    weight = gaussian(24, 256, seed=1)
    streams = OPS.encode(weight, name)
    decoded = OPS.decode(streams, name, weight.shape, torch.float32)
    x = gaussian(2, 3, 256, dtype=dtype).requires_grad_()
    y = OPS.linear(x, streams, name, weight.shape, "float32")
    assert (y.dtype, tuple(y.shape)) == (dtype, (2, 3, 24))
    factors = x.detach().float().double(), decoded.double().T
    dense, sizes = factors[0] @ factors[1], factors[0].abs() @ factors[1].abs()
    allowed = 256 * 2.0**-24 * sizes + torch.finfo(dtype).eps * dense.abs()
    assert ((y.detach().double() - dense).abs() <= allowed).all()
    gradient = gaussian(2, 3, 24, seed=2, dtype=dtype)
    y.backward(gradient)
    assert x.grad is not None
    assert same_bits(x.grad, gradient @ decoded.to(dtype))


@pytest.mark.parametrize("activations", fmtc.ops.ACTIVATIONS)
@pytest.mark.parametrize("name", FEW)
def test_linear_gives_the_bits_of_the_reference_product(name: str, activations: str) -> None:
    weight, x = gaussian(24, 256, seed=1), gaussian(5, 256, dtype=torch.bfloat16)
    q = fmtc.load(name).quantize(weight)
    arguments = OPS.encode(weight, name), name, [24, 256], activations
    try:
        expected = product(q.format, dict(q.streams), 256, q.level, x.float().numpy(), activations)
    except fmtc.ops.NoIntegerProduct as reason:
        with pytest.raises(fmtc.ops.NoIntegerProduct, match=re.escape(str(reason))):
            OPS.linear(x, *arguments)
        return
    assert same_bits(OPS.linear(x.float(), *arguments), torch.from_numpy(expected))
    assert same_bits(OPS.linear(x, *arguments), torch.from_numpy(expected).bfloat16())


def test_rounding_of_activations_counts_as_straight_through() -> None:
    weight = gaussian(24, 256, seed=1)
    streams = OPS.encode(weight, "mxfp4")
    gradients = []
    for activations in fmtc.ops.ACTIVATIONS:
        x = gaussian(3, 256).requires_grad_()
        OPS.linear(x, streams, "mxfp4", [24, 256], activations).sum().backward()
        gradients.append(x.grad)
    assert gradients[0] is not None
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])


@pytest.mark.parametrize(("rows", "length", "out"), [(0, 64, 4), (3, 0, 4), (3, 64, 0)])
def test_an_empty_product_is_one_of_zeros(rows: int, length: int, out: int) -> None:
    streams = OPS.encode(gaussian(out, length), "nf4")
    y = OPS.linear(gaussian(rows, length), streams, "nf4", [out, length], "float32")
    assert torch.equal(y, torch.zeros(rows, out))


def test_a_packed_weight_and_its_bytes_have_no_gradient() -> None:
    weight = gaussian(4, 64).requires_grad_()
    streams = OPS.encode(weight, "nf4")
    assert not any(stream.requires_grad for stream in streams)
    assert not OPS.decode(streams, "nf4", [4, 64], torch.float32).requires_grad
    y = OPS.linear(gaussian(2, 64), streams, "nf4", [4, 64], "float32")
    assert not y.requires_grad


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_bits_are_the_same(mode: Callable[[], torch.no_grad]) -> None:
    x = gaussian(4, 64).requires_grad_()
    expected = OPS.fake_quantize(x, "nvfp4").detach()
    with mode():
        y = OPS.fake_quantize(x, "nvfp4")
        z = OPS.linear(x, OPS.encode(x, "nvfp4"), "nvfp4", [4, 64], "float32")
    assert not y.requires_grad
    assert not z.requires_grad
    assert torch.equal(y, expected)


# -- the pages ----------------------------------------------------------------------------------

PAGE = Path(fmtc.__file__).parent / "docs" / "torch.md"
PAGES = (PAGE, PAGE.with_name("gpu.md"))
EXAMPLES = [
    example
    for page in PAGES
    for example in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
]


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
@pytest.mark.usefixtures("fresh")
def test_the_examples_of_the_pages_run(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(example, str(PAGE), "exec"), {})


def test_the_page_names_every_operator_with_its_schema() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(EXAMPLES) >= 4
    for name in ("encode", "decode", "fake_quantize", "linear", "product", "unpacked"):
        schema = str(getattr(OPS, name).default._schema).removeprefix("fmtc::")
        assert f"`{schema}`" in text
