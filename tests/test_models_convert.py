from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fmtc import CorruptFile, UnusableModel
from fmtc.cli import cli
from fmtc.cli.export import convert, export, rotate
from fmtc.runtime.checkpoint_writer import write_checkpoint
from fmtc.runtime.export import export as write
from fmtc.runtime.format import load
from fmtc.runtime.models import convert as converting
from fmtc.runtime.models.convert import read_model, rotate_folder, to_folder
from fmtc.runtime.models.loading import quiet
from fmtc.runtime.sources import open_source
from model_tools import tiny_llama

with quiet():
    from transformers import AutoModelForCausalLM, AutoTokenizer

IDS = torch.arange(48)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "llama"
    with quiet():
        tiny_llama(folder, layers=2)
    said = json.loads((folder / "tokenizer.json").read_text())
    digits = {"type": "Digits", "individual_digits": True}
    said["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [digits, said["pre_tokenizer"]],
    }
    (folder / "tokenizer.json").write_text(json.dumps(said))
    return folder


@pytest.fixture(scope="module")
def gguf(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("gguf")
    write_checkpoint(open_source(model), load("q8_0"), home / "out")
    return write(home / "out", home / "tiny.gguf", "gguf").path


def test_a_gguf_file_becomes_a_folder_that_computes_the_same(gguf: Path, tmp_path: Path) -> None:
    folder = to_folder(gguf, tmp_path / "folder")
    with quiet():
        loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(logits(loaded), logits(read_model(gguf)[0]))
    text = "In the 7th year of the 23 kings"
    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    assert ids == read_model(gguf)[1](text)["input_ids"]
    assert (folder / "model.safetensors").stat().st_mode & 0o044


def test_a_folder_of_a_gguf_file_is_a_source(gguf: Path, tmp_path: Path) -> None:
    source = open_source(to_folder(gguf, tmp_path / "folder"))
    assert len(source.linear_names) == 14
    assert {source.dtype(name) for name in source.names} == {"float32"}


def test_what_is_no_gguf_file_is_not_converted(model: Path, gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match="is no model"):
        to_folder(tmp_path / "none.gguf", tmp_path / "out")
    with pytest.raises(UnusableModel, match="needs no conversion"):
        to_folder(model / "config.json", tmp_path / "out")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(gguf.read_bytes()[:5000])
    with pytest.raises(CorruptFile, match=r"cut\.gguf is not a complete GGUF file"):
        to_folder(cut, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_architecture_is_refused_with_what_to_do(gguf: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(gguf.read_bytes().replace(b"llama", b"lamma"))
    with pytest.raises(UnusableModel, match=r"neither fmtc .*'lamma'.* nor transformers"):
        to_folder(other, tmp_path / "out")


def test_a_rotated_model_computes_the_same_from_its_files(model: Path, tmp_path: Path) -> None:
    done = rotate_folder(model, tmp_path / "rotated", seed=3)
    with quiet():
        before = AutoModelForCausalLM.from_pretrained(model)
        after = AutoModelForCausalLM.from_pretrained(done.folder)
    assert done.difference < 1e-5
    assert (logits(before) - logits(after)).abs().max() < 1e-5 * logits(before).abs().max()
    name = "model.layers.1.self_attn.q_proj.weight"
    assert not torch.allclose(open_source(model).get(name), open_source(done.folder).get(name))
    assert (done.folder / "tokenizer.json").is_file()


def test_the_same_seed_gives_the_same_files(model: Path, tmp_path: Path) -> None:
    files = [
        (rotate_folder(model, tmp_path / str(run), seed, "none").folder / "model.safetensors")
        for run, seed in enumerate((0, 0, 1))
    ]
    one, same, other = (file.read_bytes() for file in files)
    assert one == same
    assert one != other


def test_channels_are_kept_as_they_are(model: Path, gguf: Path, tmp_path: Path) -> None:
    done = rotate_folder(gguf, tmp_path / "rotated", keep=[9, 3])
    assert done.kept == (3, 9)
    name = "model.embed_tokens.weight"
    before, after = read_model(gguf)[0].get_parameter(name), open_source(done.folder).get(name)
    assert torch.equal(before[:, [3, 9]], after[:, [3, 9]])
    assert rotate_folder(model, tmp_path / "all", keep="none").kept == ()


def test_a_rotated_model_can_be_written_in_bfloat16(model: Path, tmp_path: Path) -> None:
    done = rotate_folder(model, tmp_path / "rotated", dtype="bfloat16")
    source = open_source(done.folder)
    assert {source.dtype(name) for name in source.names} == {"bfloat16"}
    assert 1e-5 < done.difference < 0.1


def test_a_rotation_that_changes_the_model_is_not_left_there(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(loaded: Any, *_: Any) -> Any:
        with torch.no_grad():
            loaded.model.layers[0].mlp.up_proj.weight += 0.1
        return loaded

    monkeypatch.setattr(converting, "rotate", lambda *_: wrong(read_model(model)[0]))
    with pytest.raises(UnusableModel, match="the rotated model's logits differ by"):
        rotate_folder(model, tmp_path / "rotated")
    assert not (tmp_path / "rotated").exists()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"keep": [64]}, "channels to keep"),
        ({"keep": "some"}, "'auto', 'none' or numbers, not 'some'"),
        ({"dtype": "int8"}, "name a float type"),
    ],
)
def test_what_cannot_be_rotated_so_is_refused(
    model: Path, tmp_path: Path, said: dict[str, Any], why: str
) -> None:
    with pytest.raises(UnusableModel, match=why):
        rotate_folder(model, tmp_path / "rotated", **said)


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    with quiet():
        GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(UnusableModel, match="cannot rotate a model of type 'gpt2'"):
        rotate_folder(tmp_path / "gpt2", tmp_path / "rotated", keep="none")
    with pytest.raises(UnusableModel, match=r"is no Hugging Face folder: it has no config\.json"):
        rotate_folder(tmp_path, tmp_path / "rotated")


def test_the_commands_do_it(gguf: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    def run(command: Any, *arguments: Any) -> Any:
        done = CliRunner().invoke(cli, [command.name, *map(str, arguments), "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)[0]

    found = run(convert, gguf, "-o", tmp_path / "folder")
    assert found == {"model": "tiny.gguf", "out": str(tmp_path / "folder")}
    found = run(rotate, tmp_path / "folder", "-o", tmp_path / "rotated", "--keep", "1,2")
    assert found["kept channels"] == "1,2"
    assert found["logits differ by"] < 1e-5
    write_checkpoint(open_source(tmp_path / "rotated"), load("nvfp4"), tmp_path / "out")
    for to, packed in (("compressed-tensors", 14), ("bf16", 0)):
        found = run(export, tmp_path / "out", "--to", to, "-o", tmp_path / to)
        assert (found["packed matrices"], found["decoded matrices"]) == (packed, 14 - packed)
        assert (tmp_path / to / "config.json").is_file()


def test_channels_that_are_no_numbers_are_a_usage_error(model: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    done = CliRunner().invoke(
        cli, ["rotate", str(model), "-o", str(tmp_path / "x"), "--keep", "1;2"]
    )
    assert done.exit_code == 2
    assert "'1;2' is neither auto, none nor numbers" in done.output
