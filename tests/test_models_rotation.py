import pytest
from fmtc.runtime.models import (
    UnsupportedModelError,
    linear_weights,
    massive_channels,
    rotate,
    set_linear_weights,
)

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")


SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
KINDS = {
    "llama": ("Llama", {"tie_word_embeddings": True}),
    "llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama of a width without a Hadamard": ("Llama", {"hidden_size": 30}),
    "mistral": ("Mistral", {"tie_word_embeddings": False}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"tie_word_embeddings": True}),
}


def tiny_model(kind="llama"):
    family, changes = KINDS[kind]
    config = getattr(transformers, f"{family}Config")(**(SIZES | changes))
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:  # gains of one would hide a gain that is not folded
                parameter.copy_(0.2 + torch.rand_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model


def tokens():
    return torch.randint(97, (3, 40), generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def logits(model):
    return model(input_ids=tokens()).logits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [(), (3, 17)])
def test_rotation_keeps_the_outputs(kind, keep):
    model = tiny_model(kind)
    before = logits(model)
    after = logits(rotate(model, seed=3, keep=keep))
    assert (after - before).norm() < 1e-5 * before.norm()


def test_rotation_leaves_its_argument_alone():
    model = tiny_model()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    rotate(model)
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_rotation_changes_every_linear_weight_and_unties_the_head():
    model = tiny_model()
    rotated = rotate(model)
    before = linear_weights(model)
    for name, weight in linear_weights(rotated).items():
        assert (weight - before[name]).norm() > 0.1 * before[name].norm(), name
    assert rotated.lm_head.weight is not rotated.model.embed_tokens.weight
    assert not rotated.config.tie_word_embeddings
    assert torch.equal(rotated.model.norm.weight, torch.ones(48))


def test_the_seed_decides_the_rotation():
    model = tiny_model()
    first, again, other = (linear_weights(rotate(model, seed=s)) for s in (4, 4, 5))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_rotation_keeps_the_channels_it_is_told_to():
    model = tiny_model()
    rotated = rotate(model, keep=(3, 17))
    before = model.model.embed_tokens.weight
    after = rotated.model.embed_tokens.weight
    same = [c for c in range(48) if torch.allclose(before[:, c], after[:, c], atol=1e-6)]
    assert same == [3, 17]


def test_a_channel_outside_the_model_cannot_be_kept():
    with pytest.raises(ValueError, match="below the width 48"):
        rotate(tiny_model(), keep=(48,))


def test_a_massive_channel_is_found():
    model = tiny_model()
    assert massive_channels(model, tokens()[0]) == ()
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 11] = 60.0
    assert massive_channels(model, tokens()[0]) == (11,)


def test_a_rotated_model_survives_saving_and_loading(tmp_path):
    rotated = rotate(tiny_model())
    rotated.save_pretrained(tmp_path)
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    assert torch.equal(logits(loaded.eval()), logits(rotated))


def test_rotation_reports_each_layer():
    calls = []
    rotate(tiny_model(), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


def test_a_model_of_another_kind_is_not_rotated():
    with pytest.raises(UnsupportedModelError, match="Linear"):
        rotate(torch.nn.Linear(3, 3))


def test_linear_weights_are_all_block_layers_and_not_the_head():
    weights = linear_weights(tiny_model())
    layers = ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o"]
    layers += ["mlp.gate", "mlp.up", "mlp.down"]
    assert list(weights) == [
        f"model.layers.{i}.{layer}_proj.weight" for i in range(2) for layer in layers
    ]
    assert not any(weight.requires_grad for weight in weights.values())


def test_linear_weights_of_a_plain_module_are_all_its_linear_layers():
    plain = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    assert list(linear_weights(plain)) == ["0.weight", "2.weight"]


def test_set_linear_weights_changes_the_model():
    model = tiny_model()
    name = "model.layers.1.mlp.down_proj.weight"
    value = torch.full((48, 64), 0.25, dtype=torch.float64)
    set_linear_weights(model, {name: value})
    assert torch.equal(model.model.layers[1].mlp.down_proj.weight, value.float())


@pytest.mark.parametrize(
    ("wrong", "error"), [({"lm_head.weight": (97, 48)}, KeyError), ({}, ValueError)]
)
def test_set_linear_weights_refuses_before_it_changes_anything(wrong, error):
    model = tiny_model()
    first, second = list(linear_weights(model))[:2]
    before = linear_weights(model)[first].clone()
    shapes = {first: (48, 48)} | (wrong or {second: (1, 1)})
    with pytest.raises(error):
        set_linear_weights(model, {name: torch.zeros(shape) for name, shape in shapes.items()})
    assert torch.equal(linear_weights(model)[first], before)
