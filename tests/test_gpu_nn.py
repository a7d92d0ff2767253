"""``fmtc.nn.Linear`` on a device: here the CPU counts as one, in Triton's interpreter."""

from __future__ import annotations

import contextlib
import copy
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fmtc
import fmtc.nn
import fmtc.ops
import pytest
import torch
from fmtc.runtime.gpu.device import cpu_counts_as_device
from torch_cases import MINE, dense_layer, inputs

#: One stream beside another, scales in a format of their own, records, sides.
FEW = ("po2_nf4", "nf4_dq", "q4_0", "nf4_dd4_opq_wr")


@pytest.fixture
def device() -> Iterator[None]:
    """The CPU counts as a device, whose kernels run in Triton's interpreter."""
    with cpu_counts_as_device():
        yield


def is_laid_out(layer: fmtc.nn.Linear) -> bool:
    return any(name.startswith("laid_plane") for name, _ in layer.named_buffers())


@pytest.mark.parametrize("name", [*FEW, "int4_asym_g128", "q4_k"])
def test_a_layer_on_a_device_holds_what_kernels_read_and_nothing_else(name: str) -> None:
    dense, x = dense_layer(out=4), inputs(2)
    on_host = fmtc.nn.Linear.from_linear(dense, name)
    y, state = on_host(x), on_host.state_dict()
    with cpu_counts_as_device():
        layer = fmtc.nn.Linear.from_linear(dense, name)
        assert is_laid_out(layer)
        assert "weight_codes" not in dict(layer.named_buffers())
        torch.testing.assert_close(layer(x), y)
        saved = layer.state_dict()
        assert saved.keys() == state.keys()
        assert all(torch.equal(saved[key], state[key]) for key in state)
        assert layer.quantized().level == on_host.quantized().level
    assert torch.equal(layer(x), y)  # at its first use where the CPU is no device
    assert not is_laid_out(layer)
    assert all(torch.equal(b, state[key]) for key, b in layer.named_buffers())


@pytest.mark.parametrize("name", FEW)
def test_a_layer_is_laid_out_when_it_is_moved_or_used(name: str) -> None:
    moved = fmtc.nn.Linear.from_linear(dense_layer(out=4), name)
    used, y = copy.deepcopy(moved), moved(inputs(2))
    with cpu_counts_as_device():
        model = torch.nn.Sequential(moved).to("cpu")
        assert is_laid_out(moved)
        assert not is_laid_out(used)
        torch.testing.assert_close(used(inputs(2)), y)
        assert is_laid_out(used)
    model.to("cpu")
    assert not is_laid_out(moved)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("there", [False, True], ids=["to host", "to device"])
def test_a_state_goes_between_host_and_device(name: str, there: bool) -> None:
    def place(on: bool) -> contextlib.AbstractContextManager[None]:
        return cpu_counts_as_device() if on else contextlib.nullcontext()

    with place(not there):
        source = fmtc.nn.Linear.from_linear(dense_layer(1, out=4), name)
        state = source.state_dict()
    with place(there):
        twin = fmtc.nn.Linear.from_linear(dense_layer(2, out=4), name)
        twin(inputs(2))
        assert str(twin.load_state_dict(state)) == "<All keys matched successfully>"
        assert is_laid_out(twin) == there
        same = fmtc.nn.Linear.from_linear(dense_layer(1, out=4), name)
        assert torch.equal(twin(inputs(2)), same(inputs(2)))


def test_a_state_that_is_refused_leaves_a_laid_out_weight(device: None) -> None:
    layer = fmtc.nn.Linear.from_linear(dense_layer(2, out=4), "nvfp4")
    before = layer(inputs(2))
    other = fmtc.nn.Linear.from_linear(dense_layer(1, out=4), "mxfp4").state_dict()
    with pytest.raises(RuntimeError, match="this layer is of 'nvfp4'"):
        layer.load_state_dict(other)
    assert torch.equal(layer(inputs(2)), before)
    wrong = fmtc.nn.Linear.from_linear(dense_layer(1, out=16), "nvfp4").state_dict()
    with pytest.raises(RuntimeError, match="size mismatch"):
        layer.load_state_dict(wrong)
    assert is_laid_out(layer)


@pytest.mark.parametrize("name", [*FEW, "int4_asym_g128"])
def test_a_laid_out_weight_is_copied_pickled_and_left_by_types(name: str, device: None) -> None:
    layer = fmtc.nn.Linear.from_linear(dense_layer(out=4), name)
    x = inputs(2)
    before = {key: octets.clone() for key, octets in layer.named_buffers()}
    for same in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert is_laid_out(same)
        assert torch.equal(same(x), layer(x))
    x = inputs(9)  # by a GEMM, which the interpreter runs quickly
    narrow = copy.deepcopy(layer).half()
    assert all(torch.equal(octets, before[key]) for key, octets in narrow.named_buffers())
    y = narrow(x.half())
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), layer(x), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("name", FEW)
def test_a_layer_comes_from_meta_by_loading(name: str, device: None) -> None:
    layer = fmtc.nn.Linear.from_linear(dense_layer(out=4), name)
    state = layer.state_dict()
    for assign in (False, True):
        empty = copy.deepcopy(layer).to("meta")
        assert all(b.is_meta for b in empty.buffers())
        shapes = {key: t.shape for key, t in empty.state_dict().items()}
        assert shapes == {key: t.shape for key, t in state.items()}
        if not assign:
            empty.to_empty(device="cpu")
        empty.load_state_dict(state, assign=assign)
        assert torch.equal(empty(inputs(2)), layer(inputs(2)))


def test_blocks_that_no_kernel_multiplies_stay_in_streams(device: None) -> None:
    dense, eight = dense_layer(out=4), MINE.replace("block 16", "block 8")
    layer = fmtc.nn.Linear.from_linear(dense, eight)
    assert not is_laid_out(layer)
    weight = layer.quantized().dequantize()
    expected = torch.nn.functional.linear(inputs(2), weight, dense.bias)
    torch.testing.assert_close(layer(inputs(2)), expected)


def test_one_weight_serves_one_row_and_many(device: None) -> None:
    layer = fmtc.nn.Linear.from_linear(dense_layer(out=4), "po2_nf4", arithmetic="half")
    assert "arithmetic=half" in repr(layer)
    x = inputs(9)
    many, held = layer(x), {key: b.data_ptr() for key, b in layer.named_buffers()}
    torch.testing.assert_close(layer(x[:1]), many[:1], rtol=0.01, atol=0.01)
    assert held == {key: b.data_ptr() for key, b in layer.named_buffers()}
    with pytest.raises(ValueError, match="no arithmetic 'double'"):
        fmtc.nn.Linear(256, 4, "nf4", arithmetic="double")


@pytest.mark.parametrize("name", ["nvfp4", "nf4_dd4_opq_wr"])
@pytest.mark.usefixtures("fresh", "device")
def test_a_model_on_a_device_compiles_whole(name: str) -> None:
    torch.manual_seed(3)
    last = torch.nn.Linear(16, 4)
    model = torch.nn.Sequential(dense_layer(out=16), torch.nn.ReLU(), last)
    fmtc.nn.replace_linears(model, name, activations="fp8", arithmetic="half")
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    assert torch.equal(compiled(inputs(12)), model(inputs(12)))
    x = inputs(9).requires_grad_()
    eager, fused = (torch.autograd.grad(f(x).sum(), x)[0] for f in (model, compiled))
    assert torch.equal(fused, eager)
    exported = torch.export.export(model, (inputs(9),))
    called = [node.target for node in exported.graph.nodes if node.op == "call_function"]
    assert called.count(torch.ops.fmtc.product.default) == 2
    assert torch.equal(exported.module()(inputs(9)), model(inputs(9)))


@pytest.mark.usefixtures("fresh")
def test_a_compiled_layer_is_laid_out_at_its_first_use_too() -> None:
    layer = fmtc.nn.Linear.from_linear(dense_layer(out=4), "nvfp4")
    y = layer(inputs(2))
    compiled = torch.compile(layer, backend="aot_eager")
    with cpu_counts_as_device():
        torch.testing.assert_close(compiled(inputs(2)), y)
        assert is_laid_out(layer)
        torch.testing.assert_close(compiled(inputs(3))[:2], layer(inputs(3))[:2])
    assert torch.equal(compiled(inputs(2)), y)


@pytest.mark.parametrize("activations", ["fp8", "mxfp4", MINE])
def test_inputs_may_be_rounded_to_any_format(activations: str) -> None:
    dense, x = dense_layer(out=4), inputs(2)
    exact = fmtc.nn.Linear.from_linear(dense, "nvfp4")
    layer = fmtc.nn.Linear.from_linear(dense, "nvfp4", activations=activations)
    rounded_to = layer.activations_format
    assert rounded_to is not None
    y = exact(rounded_to.quantize(x).dequantize())
    assert torch.equal(layer(x), y)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), y)
    shown = "mine" if activations == MINE else activations
    assert f"activations={shown})" in repr(layer)
    with cpu_counts_as_device():
        torch.testing.assert_close(layer(x), y)


def test_a_pickle_brings_the_format_of_its_activations(tmp_path: Path) -> None:
    only_here = MINE.replace("mine", "only_here").replace("block 16", "block 8")
    layer = fmtc.nn.Linear.from_linear(dense_layer(out=4), "nvfp4", activations=only_here)
    (tmp_path / "layer").write_bytes(pickle.dumps((layer, inputs(3), layer(inputs(3)))))
    code = (
        "import pickle, torch\n"
        "layer, x, y = pickle.load(open('layer', 'rb'))\n"
        "print(torch.equal(layer(x), y))\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False
    )
    assert done.stdout == "True\n", done.stderr
