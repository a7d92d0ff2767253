"""``fmtc.nn.Linear``: a layer of torch over a packed weight."""

from __future__ import annotations

import copy
import io
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import fmtc
import fmtc.nn
import fmtc.ops
import pytest
import torch
from torch import Tensor
from torch_cases import MINE, dense_layer, inputs

#: One stream beside another, scales in a format of their own, records, sides.
FEW = ("po2_nf4", "nf4_dq", "q4_0", "nf4_dd4_opq_wr")


def altered(state: dict[str, Any], **said: str) -> dict[str, Any]:
    """A layer's state whose format says something else."""
    old = json.loads(bytes(state["_extra_state"].tolist()))
    octets = json.dumps(old | said).encode()
    return state | {"_extra_state": torch.tensor(list(octets), dtype=torch.uint8)}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", FEW)
def test_a_layer_computes_with_its_decoded_weight(name: str, bias: bool) -> None:
    dense = dense_layer(bias=bias, out=32)
    layer = fmtc.nn.Linear.from_linear(dense, name)
    x = inputs(2, 3)
    weight = fmtc.load(name).quantize(dense.weight).dequantize()
    key = fmtc.ops.register(name)
    streams = torch.ops.fmtc.encode(dense.weight, key)
    y = torch.ops.fmtc.linear(x, streams, key, [32, 256], "float32")
    assert torch.equal(layer(x), y + dense.bias if bias else y)
    assert torch.equal(layer.quantized().dequantize(), weight)
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, weight, dense.bias))


@pytest.mark.parametrize("activations", ["int8", "hif8"])
def test_a_layer_can_round_its_inputs(activations: str) -> None:
    dense = dense_layer()
    layer = fmtc.nn.Linear.from_linear(dense, "nvfp4", activations=activations)
    streams = torch.ops.fmtc.encode(dense.weight, "nvfp4")
    y = torch.ops.fmtc.linear(inputs(3), streams, "nvfp4", [24, 256], activations)
    assert torch.equal(layer(inputs(3)), y + dense.bias)
    exact = fmtc.nn.Linear.from_linear(dense, "nvfp4")(inputs(3))
    assert 0 < (layer(inputs(3)) - exact).norm() < 0.03 * exact.norm()


def test_a_layer_says_what_it_is() -> None:
    layer = fmtc.nn.Linear.from_linear(dense_layer(), "po2_nf4")
    assert repr(layer) == (
        "Linear(in_features=256, out_features=24, bias=True, format=po2_nf4, activations=float32)"
    )
    assert layer.format == fmtc.load("po2_nf4")
    assert (layer.in_features, layer.out_features) == (256, 24)


def test_a_new_layer_has_a_weight_of_zeros() -> None:
    layer = fmtc.nn.Linear(256, 24, "nvfp4")
    assert not layer(inputs(3)).any()
    assert fmtc.nn.Linear(256, 24, "nvfp4", bias=False).bias is None
    meta = fmtc.nn.Linear(256, 24, "nvfp4", device="meta")
    assert all(tensor.is_meta for tensor in (*meta.buffers(), *meta.parameters()))
    packed = fmtc.nn.Linear.from_linear(dense_layer().to("meta"), "nvfp4")
    assert [b.shape for b in packed.buffers()] == [b.shape for b in layer.buffers()]


def test_only_the_bias_is_trained() -> None:
    layer = fmtc.nn.Linear.from_linear(dense_layer(), "nf4")
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    x = inputs(5).requires_grad_()
    layer(x).sum().backward()
    assert layer.bias is not None
    assert torch.equal(layer.bias.grad, torch.full((24,), 5.0))
    weight = layer.quantized().dequantize()
    torch.testing.assert_close(x.grad, torch.ones(5, 24) @ weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_change_of_type_leaves_the_bytes_alone(dtype: torch.dtype) -> None:
    layer = fmtc.nn.Linear.from_linear(dense_layer(), "nvfp4")
    before = {name: octets.clone() for name, octets in layer.named_buffers()}
    moved = copy.deepcopy(layer).to(dtype)
    assert moved(inputs(3).to(dtype)).dtype == dtype
    assert moved.bias is not None
    assert moved.bias.dtype == dtype
    assert all(torch.equal(octets, before[name]) for name, octets in moved.named_buffers())


@pytest.mark.parametrize("name", FEW)
def test_a_state_is_tensors_that_another_layer_loads(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    layer = fmtc.nn.Linear.from_linear(dense_layer(1), name)
    state = layer.state_dict()
    assert all(isinstance(tensor, Tensor) for tensor in state.values())
    streams = [s for s in state if s.startswith("weight_")]
    assert [s.removeprefix("weight_") for s in streams] == [
        s.replace(".", "_") for s in fmtc.ops.stream_names(name)
    ]
    assert all(state[s].dtype == torch.uint8 for s in streams)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    save_file(state, tmp_path / "layer.safetensors")
    for loaded in (torch.load(file, weights_only=True), load_file(tmp_path / "layer.safetensors")):
        twin = fmtc.nn.Linear(256, 24, name)
        assert str(twin.load_state_dict(loaded)) == "<All keys matched successfully>"
        assert torch.equal(twin(inputs(3)), layer(inputs(3)))


def test_a_layer_inside_a_model_loads_by_its_place() -> None:
    def model(seed: int) -> torch.nn.Module:
        first = fmtc.nn.Linear.from_linear(dense_layer(seed), "nf4_dd4_opq_wr")
        return torch.nn.Sequential(first, torch.nn.ReLU())

    trained, twin = model(1), model(2)
    twin.load_state_dict(trained.state_dict())
    assert torch.equal(twin(inputs(3)), trained(inputs(3)))


def test_a_state_of_another_format_is_refused_before_anything_is_copied() -> None:
    state = fmtc.nn.Linear.from_linear(dense_layer(1), "mxfp4").state_dict()
    layer = fmtc.nn.Linear.from_linear(dense_layer(2), "nvfp4")
    before = layer(inputs(3))
    with pytest.raises(RuntimeError, match=r"is in 'mxfp4' .* this layer is of 'nvfp4'"):
        layer.load_state_dict(state)
    assert torch.equal(layer(inputs(3)), before)


def test_an_altered_or_absent_format_is_refused() -> None:
    layer = fmtc.nn.Linear.from_linear(dense_layer(), "nvfp4")
    state = layer.state_dict()
    with pytest.raises(RuntimeError, match="its hash says 0000"):
        layer.load_state_dict(altered(state, hash="0" * 64))
    with pytest.raises(RuntimeError, match="hash says"):
        layer.load_state_dict(altered(state, text=MINE))
    with pytest.raises(RuntimeError, match="the saved format is damaged"):
        layer.load_state_dict(altered(state, text="format broken {"))
    with pytest.raises(RuntimeError, match="the saved format is damaged"):
        layer.load_state_dict(state | {"_extra_state": torch.zeros(4, dtype=torch.uint8)})
    with pytest.raises(RuntimeError, match=r"Missing key.*_extra_state"):
        layer.load_state_dict({k: v for k, v in state.items() if k != "_extra_state"})


def test_a_text_that_means_the_same_is_loaded() -> None:
    layer = fmtc.nn.Linear.from_linear(dense_layer(), MINE)
    state = layer.state_dict()
    other = altered(state, text="# The same.\n" + layer.format.source)
    layer.load_state_dict(other)


def test_a_state_of_another_shape_is_refused() -> None:
    state = fmtc.nn.Linear.from_linear(dense_layer(out=16), "nvfp4").state_dict()
    with pytest.raises(RuntimeError, match="size mismatch for weight_codes"):
        fmtc.nn.Linear(256, 24, "nvfp4").load_state_dict(state)


def test_a_quantized_tensor_becomes_a_layer_and_back(tmp_path: Path) -> None:
    dense = dense_layer()
    q = fmtc.load("sop_pair").quantize(dense.weight)
    q.save(tmp_path / "w.safetensors")
    loaded = fmtc.QuantizedTensor.load(tmp_path / "w.safetensors")
    layer = fmtc.nn.Linear.from_quantized(loaded, dense.bias)
    assert torch.equal(layer(inputs(3)), fmtc.nn.Linear.from_linear(dense, "sop_pair")(inputs(3)))
    again = layer.quantized()
    assert again.level == q.level
    assert all((again.streams[s] == q.streams[s]).all() for s in q.streams)


def test_what_cannot_be_a_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="no activations 'int3'"):
        fmtc.nn.Linear(256, 24, "nf4", activations="int3")
    with pytest.raises(fmtc.ops.NoIntegerProduct, match="'nf4'"):
        fmtc.nn.Linear(256, 24, "nf4", activations="int8")
    streams = torch.ops.fmtc.encode(torch.zeros(24, 128), "nf4")
    with pytest.raises(ValueError, match=r"'codes' of \[24, 256\] elements"):
        fmtc.nn.Linear(256, 24, "nf4", streams=streams)
    with pytest.raises(fmtc.UnknownFormat):
        fmtc.nn.Linear(256, 24, "no_such_format")


def test_copies_and_pickles_compute_the_same(tmp_path: Path) -> None:
    layer = fmtc.nn.Linear.from_linear(dense_layer(), MINE)
    x = inputs(3)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), layer(x))
    (tmp_path / "layer").write_bytes(pickle.dumps((layer, x, layer(x))))
    # Another process has to be told of the format by the pickle itself.
    code = (
        "import pickle, torch\n"
        "layer, x, y = pickle.load(open('layer', 'rb'))\n"
        "print(torch.equal(layer(x), y))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        check=False,
    )
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize("name", FEW)
@pytest.mark.usefixtures("fresh")
def test_a_model_of_layers_compiles_and_exports_whole(name: str) -> None:
    torch.manual_seed(3)
    model = torch.nn.Sequential(
        fmtc.nn.Linear.from_linear(torch.nn.Linear(256, 64), name),
        torch.nn.ReLU(),
        fmtc.nn.Linear.from_linear(torch.nn.Linear(64, 32), name),
    )
    x = inputs(4).requires_grad_()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), model(x))
    eager, fused = (torch.autograd.grad(f(x).sum(), x)[0] for f in (model, compiled))
    assert torch.equal(fused, eager)
    exported = torch.export.export(model, (inputs(4),))
    called = [node.target for node in exported.graph.nodes if node.op == "call_function"]
    assert called.count(torch.ops.fmtc.linear.default) == 2
    assert torch.equal(exported.module()(inputs(4)), model(inputs(4)))


# -- a whole model -------------------------------------------------------------------------------


class Language(torch.nn.Module):
    """An embedding, some layers, and an output layer that may share the embedding's weight."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(32, 64)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(64, 64) for _ in range(2)])
        self.attention = torch.nn.MultiheadAttention(64, 2)
        self.layers.append(self.layers[0])
        self.lm_head = torch.nn.Linear(64, 32, bias=False)
        if tied:
            self.lm_head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x).relu()
        return self.lm_head(self.attention(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_is_packed_at_once(tied: bool) -> None:
    torch.manual_seed(5)
    model, tokens = Language(tied), torch.arange(7)
    before = copy.deepcopy(model)
    bias = model.layers[1].bias
    assert fmtc.nn.replace_linears(model, "e2m3_ue4m4", activations="fp8") is model
    assert all(type(layer) is fmtc.nn.Linear for layer in model.layers)
    assert model.layers[0] is model.layers[2]
    assert model.layers[1].bias is bias
    assert type(model.lm_head) is (torch.nn.Linear if tied else fmtc.nn.Linear)
    assert not isinstance(model.attention.out_proj, fmtc.nn.Linear)
    y, exact = model(tokens), before(tokens)
    assert 0 < (y - exact).norm() < 0.3 * exact.norm()
    twin = fmtc.nn.replace_linears(Language(tied), "e2m3_ue4m4", activations="fp8")
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(tokens), y)


def test_layers_are_skipped_by_their_names() -> None:
    def packed(*skip: str) -> set[str]:
        model = fmtc.nn.replace_linears(Language(False), "nvfp4", skip=skip)
        return {n for n, m in model.named_modules() if isinstance(m, fmtc.nn.Linear)}

    assert packed() == {"layers.0", "layers.1", "lm_head"}
    assert packed("lm_head") == {"layers.0", "layers.1"}
    assert packed("layers.*") == {"lm_head"}
    assert packed("1", "lm_*") == {"layers.0"}


def test_a_single_layer_is_replaced_too_and_its_mode_kept() -> None:
    layer = fmtc.nn.replace_linears(dense_layer().eval(), "nvfp4")
    assert isinstance(layer, fmtc.nn.Linear)
    assert not layer.training


def test_a_layer_that_does_not_fit_is_named() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Linear(64, 20))
    model.append(torch.nn.Linear(20, 8))
    with pytest.raises(fmtc.RefusedInput, match="do not divide into records") as caught:
        fmtc.nn.replace_linears(model, "q4_0")
    assert caught.value.__notes__ == ["in the layer '2'"]
