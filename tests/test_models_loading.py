from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fmtc
import fmtc.hf
import fmtc.nn
import pytest
import torch
from fmtc import CorruptFile, UnusableModel
from fmtc.runtime.models import hf_quantizer
from fmtc.runtime.models.loading import load_model, quiet
from fmtc.runtime.sources import open_source
from model_tools import tiny_llama
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

IDS = torch.arange(48)[None]
SLOW = pytest.mark.slow
Load = Callable[[Path], torch.nn.Module]


def from_pretrained(folder: Path) -> torch.nn.Module:
    with quiet():
        return AutoModelForCausalLM.from_pretrained(folder)


def logits(model: torch.nn.Module, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits


def quantized(model: Path, out: Path, fmt: str = "nvfp4") -> Path:
    fmtc.write_checkpoint(open_source(model), fmtc.load(fmt), out)
    return out


def small_model(folder: Path, seed: int = 0, tied: bool = True) -> Path:
    with quiet():
        return tiny_llama(folder, layers=1, seed=seed, tied=tied)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models and their checkpoints; tests that change something copy it."""
    home = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("one", "two")):
        quantized(small_model(home / name, seed=seed), home / f"{name}.out")
    return home


@pytest.fixture
def out(home: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(home / "one.out", tmp_path / "out"))


@pytest.mark.parametrize("fmt", ["nvfp4", "nf4_dd4_opq_wr", pytest.param("int4_row", marks=SLOW)])
def test_both_ways_of_loading_give_the_same_bits(tmp_path: Path, home: Path, fmt: str) -> None:
    out = quantized(home / "one", tmp_path / "out", fmt)
    ours, theirs = load_model(out), from_pretrained(out)
    assert type(ours) is type(theirs)
    assert torch.equal(logits(ours), logits(theirs))
    packed = [m for m in theirs.modules() if isinstance(m, fmtc.nn.Linear)]
    assert len(packed) == 7
    assert {m.format.name for m in packed} == {fmt}
    assert not [m for m in theirs.modules() if type(m) is torch.nn.Linear and m.weight.is_meta]


def test_a_packed_layer_holds_the_bytes_of_the_file(home: Path) -> None:
    checkpoint = fmtc.read_checkpoint(home / "one.out")
    model = from_pretrained(home / "one.out")
    for name in checkpoint.quantized_names:
        held = model.get_submodule(name.removesuffix(".weight")).quantized()
        stored = checkpoint.quantized(name)
        assert {k: v.tobytes() for k, v in held.streams.items()} == {
            k: v.tobytes() for k, v in stored.streams.items()
        }
        assert held.level == stored.level


def test_decoded_weights_are_those_of_the_file(home: Path) -> None:
    checkpoint = fmtc.read_checkpoint(home / "one.out")
    state = load_model(home / "one.out", run="dequantized").state_dict()
    for name in checkpoint.names:
        assert torch.equal(state[name], checkpoint.tensor(name))


def test_packed_and_decoded_differ_by_the_order_of_sums_alone(home: Path) -> None:
    packed = logits(load_model(home / "one.out"))
    decoded = logits(load_model(home / "one.out", run="dequantized"))
    assert (packed - decoded).abs().max() < 1e-5 * decoded.abs().max()


def test_a_model_says_the_same_words_whichever_way_it_was_loaded(home: Path) -> None:
    said = [
        load(home / "one.out").generate(IDS[:, :5], max_new_tokens=6, do_sample=False)
        for load in (load_model, from_pretrained)
    ]
    assert torch.equal(*said)


@SLOW
def test_the_loading_of_transformers_needs_no_more_than_the_import(home: Path) -> None:
    code = (
        "import sys, warnings, fmtc.hf; from transformers import AutoModelForCausalLM as A; "
        "model = A.from_pretrained(sys.argv[1]); print(type(model.model.layers[0].mlp.up_proj))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(home / "one.out")],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "fmtc.runtime.nn.Linear" in done.stdout
    assert "LOAD REPORT" not in done.stdout + done.stderr


@pytest.mark.parametrize("tied", [True, False])
def test_heads_are_tied_as_the_config_says(tmp_path: Path, tied: bool) -> None:
    out = quantized(small_model(tmp_path / "model", tied=tied), tmp_path / "out")
    for run in ("packed", "dequantized"):
        model = load_model(out, run=run)
        assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


def test_layers_keep_their_biases(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    torch.nn.init.normal_(model.model.layers[0].self_attn.q_proj.bias)
    with quiet():
        model.save_pretrained(tmp_path / "model")
    out = quantized(tmp_path / "model", tmp_path / "out")
    loaded = load_model(out)
    bias = loaded.model.layers[0].self_attn.q_proj.bias
    assert torch.equal(bias, model.model.layers[0].self_attn.q_proj.bias)
    assert torch.equal(logits(loaded), logits(from_pretrained(out)))
    decoded = logits(load_model(out, run="dequantized"))
    assert (logits(loaded) - decoded).abs().max() < 1e-5 * decoded.abs().max()


def test_a_dtype_is_that_of_activations_and_of_what_is_not_packed(home: Path) -> None:
    for run in ("packed", "dequantized"):
        model = load_model(home / "one.out", run=run, dtype="bfloat16")
        assert model.dtype == torch.bfloat16
        assert logits(model).dtype == torch.bfloat16
    assert load_model(home / "one.out").dtype == torch.float32
    ours = logits(load_model(home / "one.out", dtype=torch.bfloat16))
    with quiet():
        theirs = AutoModelForCausalLM.from_pretrained(home / "one.out", dtype=torch.bfloat16)
    assert torch.equal(ours, logits(theirs))


def test_a_generation_config_comes_along(home: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(home / "one", tmp_path / "model"))
    file = model / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"top_k": 7}))
    out = quantized(model, tmp_path / "out")
    for run in ("packed", "dequantized"):
        assert load_model(out, run=run).generation_config.top_k == 7


def flip(file: Path, at: int) -> None:
    octets = bytearray(file.read_bytes())
    octets[at] ^= 1
    file.write_bytes(octets)


def files_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def refused_by(load: Load, folder: Path, file: Path) -> None:
    """The error is one of ours, or transformers' own, and names the file."""
    with pytest.raises((ValueError, OSError)) as caught:
        load(folder)
    assert file.name in str(caught.value), f"{file.name}: {caught.value}"


@pytest.mark.parametrize("load", [load_model, from_pretrained])
@pytest.mark.parametrize("place", [0.37, 1.0, *(pytest.param(p, marks=SLOW) for p in (0.0, 0.61))])
def test_a_flipped_bit_in_any_file_is_refused_by_the_files_name(
    home: Path, tmp_path: Path, place: float, load: Load
) -> None:
    for number, file in enumerate(files_of(home / "one.out")):
        copy = Path(shutil.copytree(home / "one.out", tmp_path / str(number)))
        damaged = copy / file.relative_to(home / "one.out")
        flip(damaged, int(place * (damaged.stat().st_size - 1)))
        refused_by(load, copy, damaged)
        shutil.rmtree(copy)


@pytest.mark.parametrize("load", [load_model, from_pretrained])
@pytest.mark.parametrize("left", [0.5, *(pytest.param(p, marks=SLOW) for p in (0.0, 1.0))])
def test_a_cut_file_is_refused_by_its_name(
    home: Path, tmp_path: Path, left: float, load: Load
) -> None:
    for number, file in enumerate(files_of(home / "one.out")):
        copy = Path(shutil.copytree(home / "one.out", tmp_path / str(number)))
        damaged = copy / file.relative_to(home / "one.out")
        octets = damaged.read_bytes()
        damaged.write_bytes(octets[: min(int(left * len(octets)), len(octets) - 1)])
        refused_by(load, copy, damaged)
        shutil.rmtree(copy)


@pytest.mark.parametrize("load", [load_model, from_pretrained])
def test_an_absent_file_is_refused_by_its_name(home: Path, tmp_path: Path, load: Load) -> None:
    for number, file in enumerate(files_of(home / "one.out")):
        copy = Path(shutil.copytree(home / "one.out", tmp_path / str(number)))
        absent = copy / file.relative_to(home / "one.out")
        absent.unlink()
        refused_by(load, copy, absent)
        shutil.rmtree(copy)


@pytest.mark.parametrize("load", [load_model, from_pretrained])
def test_a_file_of_another_checkpoint_is_refused_by_its_name(
    home: Path, tmp_path: Path, load: Load
) -> None:
    swapped = set()
    for number, file in enumerate(files_of(home / "one.out")):
        other = home / "two.out" / file.relative_to(home / "one.out")
        if other.read_bytes() == file.read_bytes():
            continue
        copy = Path(shutil.copytree(home / "one.out", tmp_path / str(number)))
        shutil.copyfile(other, copy / file.relative_to(home / "one.out"))
        with pytest.raises(CorruptFile) as caught:
            load(copy)
        # With the other's manifest it is the first file that does not match it that is named.
        assert file.name == "fmtc.json" or file.name in str(caught.value)
        swapped.add(file.name)
    assert {"fmtc.json", "quantized-00001.safetensors", "kept-00001.safetensors"} <= swapped


def test_a_config_that_says_another_shape_is_refused(out: Path) -> None:
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    for load in (load_model, from_pretrained):
        refused_by(load, out, out / "config.json")


def test_tensors_without_a_config_are_read_another_way(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "plain.safetensors"
    shutil.copyfile(home / "one" / "model.safetensors", file)
    out = quantized(file, tmp_path / "out")
    with pytest.raises(UnusableModel, match=r"no config\.json.*fmtc\.read_checkpoint"):
        load_model(out)
    assert len(dict(fmtc.read_checkpoint(out).state_dict())) == 11


def test_a_folder_that_is_no_checkpoint_is_refused(home: Path, out: Path) -> None:
    with pytest.raises(CorruptFile, match=r"is no fmtc checkpoint: it has no fmtc\.json"):
        load_model(home / "one")
    (out / "fmtc.json").unlink()
    with pytest.raises(UnusableModel, match=r"has no fmtc\.json: copy the whole folder"):
        from_pretrained(out)


def test_there_is_no_third_way_to_run(out: Path) -> None:
    with pytest.raises(ValueError, match="no run 'fast'; there are packed and dequantized"):
        load_model(out, run="fast")
    with pytest.raises(ValueError, match="'int8' is no float type"):
        load_model(out, dtype="int8")


def test_a_packed_model_is_not_saved_but_can_be_made_dense(out: Path, tmp_path: Path) -> None:
    model = from_pretrained(out)
    with pytest.raises(UnusableModel, match=r"saved by copying.*fmtc export"):
        model.save_pretrained(tmp_path / "copy")
    assert not list((tmp_path / "copy").glob("*.safetensors"))
    wanted = logits(load_model(out, run="dequantized"))
    plain = model.dequantize()
    with quiet():
        plain.save_pretrained(tmp_path / "dense")
    assert torch.equal(logits(from_pretrained(tmp_path / "dense")), wanted)


def test_a_packed_weight_that_is_no_layer_of_the_model_is_named(tmp_path: Path) -> None:
    model = small_model(tmp_path / "model")
    source = open_source(model)
    extra = {name: source.get(name) for name in source.names}
    extra["model.layers.0.mlp.extra_proj.weight"] = torch.randn(64, 64)
    from safetensors.torch import save_file

    save_file(extra, model / "model.safetensors", {"format": "pt"})
    out = quantized(model, tmp_path / "out")
    for load in (load_model, from_pretrained):
        with pytest.raises(UnusableModel, match=r"extra_proj\.weight is no linear layer"):
            load(out)
    with pytest.raises(UnusableModel, match=r"has no place for model\.layers\.0\.mlp\.extra_proj"):
        load_model(out, run="dequantized")


def test_the_folder_of_a_hub_is_found_and_what_it_lacks_is_fetched(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0" * 40
    repository = tmp_path / "models--someone--tiny"
    folder = Path(shutil.copytree(home / "one.out", repository / "snapshots" / commit))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (folder / "fmtc.json").unlink()
    shutil.rmtree(folder / "formats")
    fetched = []

    def fetch(name: str, file: str, cache_dir: Path, revision: str, **_: object) -> None:
        assert (name, cache_dir, revision) == ("someone/tiny", tmp_path, commit)
        (folder / file).parent.mkdir(exist_ok=True)
        shutil.copyfile(home / "one.out" / file, folder / file)
        fetched.append(file)

    monkeypatch.setattr(hf_quantizer, "cached_file", fetch)
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            "someone/tiny", cache_dir=tmp_path, local_files_only=True
        )
    assert torch.equal(logits(model), logits(load_model(home / "one.out")))
    assert fetched[0] == "fmtc.json"
    assert len(fetched) == 2


def test_layers_are_not_offloaded_to_disk() -> None:
    quantizer = hf_quantizer.FmtcQuantizer(hf_quantizer.FmtcConfig())
    assert quantizer.update_device_map({"": "cpu"}) == {"": "cpu"}
    with pytest.raises(UnusableModel, match="packed layers are not offloaded"):
        quantizer.update_device_map({"model.embed_tokens": "cpu", "model.layers": "disk"})


@SLOW
def test_a_packed_model_compiles(home: Path) -> None:
    model = load_model(home / "one.out")
    compiled = torch.compile(model, backend="aot_eager")
    assert torch.equal(logits(compiled), logits(model))
