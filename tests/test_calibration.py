from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from calibration_tools import (
    DENSE,
    EXPERTS,
    add_tokenizer,
    hessian_of,
    norms_of,
    seen_by_linears,
    small_model,
    whole_model,
)
from click.testing import CliRunner
from fmtc import CorruptFile, RefusedInput, UnusableModel
from fmtc.cli import cli
from fmtc.runtime.calibration import Calibration, calibrate, text_hash
from fmtc.runtime.calibration.windows import windows_of
from fmtc.runtime.sources import open_source
from model_tools import TEXT, tiny_llama
from safetensors.torch import load_file, save_file

#: The others take long to import; these differ most from a Llama.
QUICK = {"Gemma3Text", "OPT"}
RUN = {"tokens": 200, "context": 40}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def calibrated(llama: Path) -> Calibration:
    return calibrate(llama, TEXT, hessians=True, **RUN)


@pytest.fixture
def copied(llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama, tmp_path / "copied"))


def saved(calibration: Calibration, file: Path) -> bytes:
    calibration.save(file)
    return file.read_bytes()


def test_norms_and_hessians_are_those_of_the_whole_model(
    llama: Path, calibrated: Calibration
) -> None:
    seen = seen_by_linears(llama, **RUN)
    assert list(calibrated.norms) == list(open_source(llama).linear_names)
    assert set(calibrated.norms) == set(seen) - {"lm_head.weight"}
    for name, norm in calibrated.norms.items():
        torch.testing.assert_close(norm, norms_of(seen[name]), rtol=2e-6, atol=1e-7)
        hessian, wanted = calibrated.hessians[name], hessian_of(seen[name])
        torch.testing.assert_close(hessian, wanted, rtol=1e-5, atol=1e-6 * float(wanted.max()))
        assert torch.equal(hessian, hessian.T)
        torch.testing.assert_close(hessian.diagonal().sqrt(), norm, rtol=1e-6, atol=0)


def test_what_was_run_is_said(calibrated: Calibration, llama: Path) -> None:
    assert (calibrated.tokens, calibrated.context) == (200, 40)
    assert calibrated.text_sha256 == text_hash(TEXT)
    assert calibrated.model_sha256 == open_source(llama).content_hash()
    assert calibrated.unseen == ()
    layer = "model.layers.1.self_attn."
    assert calibrated.same[f"{layer}k_proj.weight"] == calibrated.same[f"{layer}v_proj.weight"]


@pytest.mark.parametrize(
    "kind",
    [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in DENSE],
)
def test_other_architectures_agree_with_transformers(kind: str, tmp_path: Path) -> None:
    folder = small_model(tmp_path, kind, **DENSE[kind])
    seen = seen_by_linears(folder, **RUN)
    found = calibrate(folder, TEXT, **RUN)
    layers = [name for name in seen if any(part.isdigit() for part in name.split("."))]
    assert set(found.norms) == set(layers)
    for name, norm in found.norms.items():
        torch.testing.assert_close(norm, norms_of(seen[name]), rtol=1e-5, atol=1e-6)


def seen_by_experts(folder: Path) -> dict[str, torch.Tensor]:
    """(layer.expert) -> the tokens that a layer's router sent there, float64 [tokens, in]."""
    model = whole_model(folder)
    found: dict[str, list[torch.Tensor]] = {}
    for index, layer in enumerate(model.model.layers):

        def look(module: object, args: tuple[torch.Tensor, ...], index: int = index) -> None:
            hidden, chosen = args[0].detach(), args[1]
            for expert in range(4):
                rows = hidden[(chosen == expert).any(-1)].double()
                found.setdefault(f"{index}.{expert}", []).append(rows)

        layer.mlp.experts.register_forward_pre_hook(look)
    with torch.no_grad():
        for window in windows_of(folder, TEXT, **RUN):
            model(input_ids=window[None], use_cache=False)
    return {name: torch.cat(rows) for name, rows in found.items()}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("Mixtral", "model.layers.{}.block_sparse_moe.experts.{}.{}.weight w1 w3 w2"),
        pytest.param(
            "Qwen3Moe",
            "model.layers.{}.mlp.experts.{}.{}.weight gate_proj up_proj down_proj",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_expert_is_measured_on_the_tokens_it_was_sent(
    kind: str, names: str, tmp_path: Path
) -> None:
    folder = small_model(tmp_path, kind, **EXPERTS[kind])
    found = calibrate(folder, TEXT, hessians=True, **RUN)
    assert set(found.norms) == set(open_source(folder).linear_names)
    pattern, gate, up, down = names.split()
    stored = open_source(folder)
    for place, rows in seen_by_experts(folder).items():
        w1, w3, w2 = (pattern.format(*place.split("."), part) for part in (gate, up, down))
        middle = torch.nn.functional.silu(rows @ stored.get(w1).double().T)
        middle *= rows @ stored.get(w3).double().T
        for name, inputs in ((w1, rows), (w3, rows), (w2, middle)):
            torch.testing.assert_close(found.norms[name], norms_of(inputs), rtol=2e-5, atol=1e-7)
            wanted = hessian_of(inputs)
            bound = 2e-5 * float(wanted.max())
            torch.testing.assert_close(found.hessians[name], wanted, rtol=1e-4, atol=bound)


def test_an_expert_that_saw_no_token_is_named_and_has_norms_of_zero(tmp_path: Path) -> None:
    folder = small_model(tmp_path, "Mixtral", **{**EXPERTS["Mixtral"], "num_experts_per_tok": 1})
    file = folder / "model.safetensors"
    tensors = load_file(file)
    router = tensors["model.layers.1.block_sparse_moe.gate.weight"]
    router[1], router[2:] = -router[0], 0  # one of the first two always wins
    save_file(tensors, file, metadata={"format": "pt"})
    found = calibrate(folder, TEXT, hessians=True, **RUN)
    home = "model.layers.1.block_sparse_moe.experts"
    silent = {f"{home}.{e}.{w}.weight" for e in (2, 3) for w in ("w1", "w2", "w3")}
    assert set(found.unseen) >= silent
    assert not any(name.startswith(f"{home}.0") for name in found.unseen)
    for name in found.norms:
        assert (name in found.unseen) == (not found.norms[name].any())
        assert (name in found.unseen) == (name not in found.hessians)
    file = tmp_path / "saved"
    found.save(file)
    assert Calibration.load(file).unseen == found.unseen


def test_the_number_of_threads_changes_no_bit(llama: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    files = [
        saved(calibrate(llama, TEXT, hessians=True, threads=n, **RUN), tmp_path / str(n))
        for n in (1, 2, 5)
    ]
    assert files[0] == files[1] == files[2]
    assert torch.get_num_threads() == before


def test_shards_and_bfloat16_are_read_as_what_they_hold(llama: Path, tmp_path: Path) -> None:
    model = whole_model(llama).bfloat16()
    whole, sharded, wide = (tmp_path / name for name in ("whole", "sharded", "wide"))
    model.save_pretrained(whole)
    model.save_pretrained(sharded, max_shard_size="60KB")
    model.float().save_pretrained(wide)
    assert len(list(sharded.glob("*.safetensors"))) > 3
    found = []
    for folder in (whole, sharded, wide):
        add_tokenizer(folder)
        found.append(calibrate(folder, TEXT, **RUN).norms)
    for name, norm in found[0].items():
        assert torch.equal(norm, found[1][name])
        assert torch.equal(norm, found[2][name])


def test_windows_are_spread_over_the_text(llama: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(llama)
    text = "".join(f"{word} of the river. " * 300 for word in ("lion ", "raven", "kings"))
    windows = windows_of(llama, text, 96, 32)
    read = ["".join(tokenizer.convert_ids_to_tokens(window.tolist())) for window in windows]
    assert "lion" in read[0]
    assert "raven" in read[1]
    assert "kings" in read[2]


def test_windows_begin_with_the_token_that_the_model_expects(llama: Path, copied: Path) -> None:
    assert not (windows_of(llama, TEXT, 96, 32)[:, 0] == 7).any()
    file = copied / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    begin = next(token for token, index in tokenizer["model"]["vocab"].items() if index == 7)
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": begin, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {begin: {"id": begin, "ids": [7], "tokens": [begin]}},
    }
    file.write_text(json.dumps(tokenizer))
    settings = json.loads((copied / "tokenizer_config.json").read_text())
    settings["bos_token"] = begin
    (copied / "tokenizer_config.json").write_text(json.dumps(settings))
    windows = windows_of(copied, TEXT, 96, 32)
    assert windows.shape == (3, 32)
    assert (windows[:, 0] == 7).all()


def test_a_text_that_just_suffices_is_used_whole(llama: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(llama)
    ids = tokenizer(TEXT, verbose=False)["input_ids"]
    context = len(ids) // 7
    windows = windows_of(llama, TEXT, 7 * context, context)
    assert windows.flatten().tolist() == ids[: 7 * context]
    with pytest.raises(RefusedInput, match=rf"has {len(ids):,} tokens .* need {8 * context:,}"):
        windows_of(llama, TEXT, 8 * context, context)


@pytest.mark.parametrize(
    ("tokens", "context", "why"),
    [(39, 40, "39 tokens make no window of 40"), (300, 300, "of 300 tokens: .* takes 256")],
)
def test_sizes_that_cannot_be_are_refused(llama: Path, tokens: int, context: int, why: str) -> None:
    with pytest.raises(RefusedInput, match=why):
        calibrate(llama, TEXT, tokens=tokens, context=context)


def test_models_whose_matrices_are_used_otherwise_are_refused_by_name(tmp_path: Path) -> None:
    folder = small_model(tmp_path, "GPT2", n_embd=64, n_layer=2, n_head=4, n_positions=128)
    with pytest.raises(UnusableModel, match=r"does not multiply with transformer.h.0.attn.c_attn"):
        calibrate(folder, TEXT, **RUN)


def test_models_whose_layers_are_no_plain_row_are_refused(tmp_path: Path) -> None:
    settings = {"head_dim": 16, "vocab_size_per_layer_input": 320, "num_kv_shared_layers": 0}
    settings |= {"hidden_size_per_layer_input": 8, "laurel_rank": 4}
    for layers, why in ((3, "has 3 lists of 3 layers"), (5, "layers of Gemma3n.* are given")):
        settings |= {"layer_types": ["full_attention"] * layers, "num_hidden_layers": layers}
        folder = small_model(tmp_path / str(layers), "Gemma3nText", **settings)
        with pytest.raises(UnusableModel, match=why):
            calibrate(folder, TEXT, **RUN)


def test_models_that_work_between_their_layers_are_refused(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def doubled(self: torch.nn.Module, input_ids: torch.Tensor, use_cache: bool) -> torch.Tensor:
        hidden = self.embed_tokens(input_ids)
        for layer in self.layers:
            given = layer(hidden)
            hidden = 2 * (given[0] if isinstance(given, tuple) else given)
        return hidden

    monkeypatch.setattr(transformers.LlamaModel, "forward", doubled)
    with pytest.raises(UnusableModel, match="LlamaModel does more than run its layers"):
        calibrate(llama, TEXT, **RUN)


def change_config(folder: Path, **settings: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def test_folders_that_hold_no_such_model_are_refused(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match=r"'.*model.safetensors' is no Hugging Face folder"):
        calibrate(copied / "model.safetensors", TEXT, **RUN)
    change_config(copied, quantization_config={"quant_method": "fmtc"})
    with pytest.raises(UnusableModel, match="is quantized: calibrate the original"):
        calibrate(copied, TEXT, **RUN)
    (copied / "config.json").write_text('{"model_type": "no such thing"}')
    with pytest.raises(UnusableModel, match=r"config.json' is no configuration"):
        calibrate(copied, TEXT, **RUN)
    transformers.T5Config(num_layers=1, d_model=16, vocab_size=320).save_pretrained(copied)
    with pytest.raises(UnusableModel, match="cannot build the model"):
        calibrate(copied, TEXT, **RUN)


def test_a_folder_without_a_tokenizer_is_refused(copied: Path) -> None:
    (copied / "tokenizer.json").write_text("{")
    with pytest.raises(UnusableModel, match=r"tokenizer of .* cannot be loaded"):
        calibrate(copied, TEXT, **RUN)
    for file in copied.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UnusableModel, match="has no tokenizer"):
        calibrate(copied, TEXT, **RUN)


def test_weights_that_do_not_fit_the_configuration_are_refused_by_name(copied: Path) -> None:
    change_config(copied, intermediate_size=96)
    with pytest.raises(UnusableModel, match=r"layers.0.mlp.\w+.weight is .*128.* wants .*96"):
        calibrate(copied, TEXT, **RUN)
    change_config(copied, intermediate_size=128, num_hidden_layers=4)
    with pytest.raises(UnusableModel, match=r"has no tensor for the model's model.layers.3"):
        calibrate(copied, TEXT, **RUN)


def test_weights_that_are_not_finite_are_refused_by_name(copied: Path) -> None:
    file = copied / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UnusableModel, match=r"inputs of model.layers.1.mlp.down_proj.* not finite"):
        calibrate(copied, TEXT, **RUN)


def test_a_truncated_model_is_refused_by_name(copied: Path) -> None:
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CorruptFile, match=r"'.*model.safetensors' is no whole safetensors file"):
        calibrate(copied, TEXT, **RUN)


def test_a_saved_calibration_comes_back_whole(calibrated: Calibration, tmp_path: Path) -> None:
    file = tmp_path / "saved.safetensors"
    first = saved(calibrated, file)
    loaded = Calibration.load(file)
    assert loaded.fingerprint == calibrated.fingerprint
    assert list(loaded.norms) == list(calibrated.norms)
    assert set(loaded.hessians) == set(calibrated.hessians)
    for name in loaded.norms:
        assert torch.equal(loaded.norms[name], calibrated.norms[name])
        assert torch.equal(loaded.hessians[name], calibrated.hessians[name])
    assert saved(loaded, tmp_path / "again") == first
    assert set(load_file(file)) > {f"norms.{name}" for name in loaded.norms}


def test_a_calibration_of_plain_tensors_is_the_same_as_the_stored_one(
    calibrated: Calibration, tmp_path: Path
) -> None:
    plain = Calibration(
        dict(calibrated.norms),
        dict(calibrated.hessians),
        calibrated.tokens,
        calibrated.context,
        calibrated.text_sha256,
        calibrated.model_sha256,
        calibrated.same,
    )
    assert plain.fingerprint == calibrated.fingerprint
    assert saved(plain, tmp_path / "plain") == saved(calibrated, tmp_path / "stored")


def test_the_fingerprint_tells_calibrations_apart(llama: Path, calibrated: Calibration) -> None:
    prints = {calibrated.fingerprint, calibrate(llama, TEXT, **RUN).fingerprint}
    prints.add(calibrate(llama, TEXT + "x", hessians=True, **RUN).fingerprint)
    prints.add(calibrate(llama, TEXT, hessians=True, tokens=160, context=40).fingerprint)
    assert len(prints) == 4
    assert calibrate(llama, TEXT, hessians=True, **RUN).fingerprint == calibrated.fingerprint


def test_no_altered_byte_and_no_cut_is_missed(llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "saved.safetensors"
    whole = saved(calibrate(llama, TEXT, **RUN), file)
    step = len(whole) // 150
    for at in [*range(64), *range(64, len(whole), step), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[at] ^= 4
        file.write_bytes(damaged)
        with pytest.raises(CorruptFile, match=r"saved\.safetensors"):
            Calibration.load(file)
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(CorruptFile, match=r"saved\.safetensors"):
            Calibration.load(file)


def test_an_altered_hessian_is_refused_when_it_is_read(
    calibrated: Calibration, tmp_path: Path
) -> None:
    file = tmp_path / "saved.safetensors"
    calibrated.save(file)
    name = calibrated.same["model.layers.2.mlp.down_proj.weight"]
    octets = calibrated.hessians[name].numpy().tobytes()
    whole = file.read_bytes()
    at = whole.index(octets) + len(octets) // 2
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    loaded = Calibration.load(file)
    with pytest.raises(CorruptFile, match=rf"saved.*hessian\.{name} does not match"):
        loaded.hessians[name]


def test_files_of_another_kind_are_refused_by_name(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match=r"model.safetensors' is damaged or no file of fmtc"):
        Calibration.load(llama / "model.safetensors")
    with pytest.raises(FileNotFoundError, match=r"no file '.*nowhere'"):
        Calibration.load(tmp_path / "nowhere")


def test_the_command_writes_what_the_function_returns(llama: Path, tmp_path: Path) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "out.calibration"
    text.write_text(TEXT)
    options = ["--tokens", "200", "--context", "40", "--json"]
    arguments = [str(llama), "--text", str(text), "-o", str(out), *options]
    done = CliRunner().invoke(cli, ["calibrate", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    said = json.loads(done.stdout)
    assert out.read_bytes() == saved(calibrate(llama, TEXT, **RUN), tmp_path / "other")
    assert said["fingerprint"] == Calibration.load(out).fingerprint
    assert said["bytes"] == out.stat().st_size
    assert [file.name for file in tmp_path.glob("out*")] == [out.name]
