from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import fmtc
import numpy as np
import pytest
import torch
from fmtc import CorruptFile, UnusableModel
from fmtc.runtime import atomic, checkpoint_writer
from fmtc.runtime.checkpoint import Checkpoint, read_checkpoint
from fmtc.runtime.checkpoint_writer import CheckpointWriter, write_checkpoint
from fmtc.runtime.manifest import (
    INDEX,
    MANIFEST,
    digest_of_manifest,
    entry_bound,
    fixed_bound,
    text_bound,
)
from fmtc.runtime.sources import open_source
from representatives import ANY_SHAPE
from safetensors import safe_open
from safetensors.torch import save_file

LINEAR = {
    "model.layers.0.self_attn.q_proj.weight": (24, 40),
    "model.layers.0.mlp.up_proj.weight": (56, 24),
    "model.layers.1.mlp.down_proj.weight": (24, 56),
}
KEPT = {
    "model.embed_tokens.weight": (64, 24),
    "model.layers.0.input_layernorm.weight": (24,),
    "model.layers.0.self_attn.q_proj.bias": (24,),
    "model.norm.weight": (24,),
    "lm_head.weight": (64, 24),
}


def weights(dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    maker = torch.Generator().manual_seed(5)
    shapes = LINEAR | KEPT
    return {n: torch.randn(shape, generator=maker).to(dtype) for n, shape in shapes.items()}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A Hugging Face folder: two bfloat16 shards, their index, a config and a tokenizer."""
    folder = tmp_path / "model"
    folder.mkdir()
    tensors = weights()
    names = list(tensors)
    index = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({n: tensors[n] for n in part}, folder / file)
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
    )
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "README.md").write_text("not part of the model")
    return folder


def quantized(model: Path, out: Path, name: str = "nvfp4") -> Checkpoint:
    return write_checkpoint(open_source(model), fmtc.load(name), out)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


@pytest.mark.parametrize("name", ANY_SHAPE)
def test_a_folder_of_shards_becomes_a_checkpoint(name: str, model: Path, tmp_path: Path) -> None:
    fmt = fmtc.load(name)
    made = quantized(model, tmp_path / "out", name)
    original = weights()
    again = read_checkpoint(tmp_path / "out")
    assert set(again.names) == set(original) == set(made.names)
    assert set(again.quantized_names) == set(LINEAR)
    for key, tensor in again.state_dict():
        assert tensor.dtype == torch.bfloat16
        assert tensor.shape == original[key].shape
        if key in KEPT:
            assert torch.equal(tensor.view(torch.int16), original[key].view(torch.int16))
        else:
            assert torch.equal(tensor, fmt.quantize(original[key]).dequantize())
            assert again.quantized(key).format == fmt


@pytest.mark.parametrize("name", ["po2_nf4", "nf4"])
def test_the_totals_are_what_the_files_hold(name: str, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    totals = quantized(model, out, name).totals(open_source(model))
    original = weights()
    packed = [*out.glob("quantized-*.safetensors"), *out.glob("formats/*.fmt"), out / MANIFEST]
    octets = sum(p.stat().st_size for p in packed)
    count = sum(original[key].numel() for key in LINEAR)
    manifest = json.loads((out / MANIFEST).read_text())
    text = (out / next(iter(manifest["formats"].values()))["file"]).read_text()
    fmt = fmtc.compile_text(text)
    error = energy = 0.0
    with safe_open(out / "quantized-00001.safetensors", framework="np") as handle:
        for key in LINEAR:
            x = original[key].float().numpy().astype(np.float64)
            entry = manifest["tensors"][key]
            streams = {s: handle.get_tensor(f"{key}.{s}") for s in entry["streams"]}
            level = checkpoint_level(entry)
            from fmtc.compiler.reference import decode

            y = decode(fmt, streams, x.shape[1], level)
            error += float(((x - y) ** 2).sum())
            energy += float((x**2).sum())
    assert totals.weights == count
    assert totals.disk_bytes == octets
    assert totals.bpw == 8 * octets / count
    assert totals.nmse == pytest.approx(error / energy, rel=1e-12)
    assert 0.003 < totals.nmse < 0.02


def checkpoint_level(entry: dict[str, object]) -> object:
    from fmtc.compiler.reference import TensorLevel

    return TensorLevel(float.fromhex(str(entry["tensor_scale"])), int(str(entry["shift"])))


def test_companions_are_copied_and_weights_are_not(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    quantized(model, out)
    names = set(files_of(out))
    text = f"formats/nvfp4-{fmtc.load('nvfp4').content_hash[:16]}.fmt"
    assert names == {
        MANIFEST,
        INDEX,
        text,
        "quantized-00001.safetensors",
        "kept-00001.safetensors",
        "config.json",
        "tokenizer.json",
        "chat_template.jinja",
    }
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (model / name).read_bytes()
    said = json.loads((out / "config.json").read_text())
    assert said.pop("quantization_config")["quant_method"] == "fmtc"
    assert said == json.loads((model / "config.json").read_text())
    assert (out / text).read_text() == fmtc.load("nvfp4").source


def test_the_index_names_the_file_of_every_tensor(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    quantized(model, out)
    index = json.loads((out / INDEX).read_text())
    found = {}
    for file in out.glob("*.safetensors"):
        with safe_open(file, framework="np") as handle:
            found |= dict.fromkeys(handle.keys(), file.name)
    assert index["weight_map"] == found
    assert set(KEPT) < set(found)


def test_a_plan_is_part_of_the_manifest(model: Path, tmp_path: Path) -> None:
    source, fmt = open_source(model), fmtc.load("nf4")
    plan = {"bpw": 4.7, "units": [{"name": "a", "choice": "base"}]}
    with atomic.folder_atomically(tmp_path / "out") as folder:
        writer = CheckpointWriter(folder)
        for name in source.names:
            if name in LINEAR:
                writer.add(name, fmt.quantize(source.get(name)))
            else:
                writer.keep(name, source.get(name))
        writer.finish(source.companions, plan)
    assert read_checkpoint(tmp_path / "out").plan == plan
    plain = quantized(model, tmp_path / "plain", "nf4")
    assert plain.plan == {}
    assert read_checkpoint(tmp_path / "out").manifest_hash != plain.manifest_hash


@pytest.mark.parametrize("name", ["po2_nf4", "nf4_dd4_opq_wr", "q4_0", "four_six"])
def test_what_a_tensor_adds_is_never_more_than_its_bound(name: str, tmp_path: Path) -> None:
    tensors = {
        f"model.layers.{i}.mlp.up_proj.weight": torch.randn(
            (40, 64), generator=torch.Generator().manual_seed(i)
        )
        for i in range(12)
    }
    fmt = fmtc.load(name)
    file = tmp_path / "model.safetensors"
    save_file(tensors | {"model.norm.weight": torch.ones(64)}, file)
    source = open_source(file)
    made = write_checkpoint(source, fmt, tmp_path / "out")
    bound = fixed_bound({}, source) + text_bound(fmt)
    for key in tensors:
        packed = made.quantized(key)
        shapes = {stream: octets.shape for stream, octets in packed.streams.items()}
        streams = sum(octets.nbytes for octets in packed.streams.values())
        bound += entry_bound(key, fmt, shapes) + streams
    assert made.disk_bytes <= bound
    assert bound < made.disk_bytes + 12 * 700 + 500


def test_the_same_model_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    quantized(model, tmp_path / "one")
    quantized(model, tmp_path / "two")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_large_models_are_cut_into_files(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_writer, "SHARD_BYTES", 1000)
    made = quantized(model, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("quantized-*"))) >= 2
    assert len(list((tmp_path / "out").glob("kept-*"))) >= 2
    assert {n: t.shape for n, t in made.state_dict()} == {n: t.shape for n, t in weights().items()}
    made.totals(open_source(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_single_safetensors_file_becomes_a_checkpoint(dtype: torch.dtype, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file(weights(dtype), file)
    made = quantized(file, tmp_path / "out", "mxfp4")
    for key, tensor in made.state_dict():
        assert tensor.dtype == dtype
        if key in KEPT:
            assert torch.equal(tensor, weights(dtype)[key])


# -- interrupted writes --------------------------------------------------------------------


def test_an_interrupted_write_leaves_no_checkpoint(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    source = open_source(model)

    def interrupt(what: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(source, fmtc.load("nf4"), out, progress=interrupt)
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.parametrize("failing", ["rename", "write_text", "copyfile"])
def test_a_failed_write_keeps_the_old_checkpoint(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    out = tmp_path / "place" / "out"
    quantized(model, out, "mxfp4")
    before = files_of(out)
    renames: list[Path] = []
    rename = Path.rename

    def crash(*arguments: object, **options: object) -> None:
        raise OSError("the disk is full")

    def crash_on_the_second(self: Path, target: Path) -> Path:
        renames.append(target)
        if len(renames) == 2:
            raise OSError("the disk is full")
        return rename(self, target)

    if failing == "rename":
        monkeypatch.setattr(Path, "rename", crash_on_the_second)
    elif failing == "write_text":
        monkeypatch.setattr(Path, "write_text", crash)
    else:
        monkeypatch.setattr(checkpoint_writer.shutil, "copyfile", crash)
    with pytest.raises(OSError, match="disk is full"):
        quantized(model, out, "nvfp4")
    monkeypatch.undo()
    assert files_of(out) == before
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    quantized(model, out, "nvfp4")
    assert read_checkpoint(out).quantized(next(iter(LINEAR))).format.name == "nvfp4"
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_a_folder_that_is_no_checkpoint_is_left_alone(model: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    quantized(model, precious)
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="is no fmtc checkpoint: it is left as it is"):
        quantized(model, home)
    with pytest.raises(FileExistsError):
        quantized(model, home / "thesis.txt")
    with pytest.raises(FileExistsError):
        quantized(model, model)
    assert (home / "thesis.txt").read_text() == "years of work"
    assert len(files_of(model)) == 7


def test_a_checkpoint_is_not_quantized_again(model: Path, tmp_path: Path) -> None:
    quantized(model, tmp_path / "out")
    with pytest.raises(UnusableModel, match="quantized already"):
        quantized(tmp_path / "out", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_model_that_another_tool_quantized_is_refused(model: Path, tmp_path: Path) -> None:
    (model / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    with pytest.raises(UnusableModel, match=r"config.json' has a quantization_config"):
        quantized(model, tmp_path / "out")


def test_a_folder_appears_with_the_usual_permissions(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        with atomic.folder_atomically(tmp_path / "new") as folder:
            (folder / "file").write_text("x")
    finally:
        os.umask(old)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o755


# -- damaged checkpoints -------------------------------------------------------------------


@pytest.fixture
def out(model: Path, tmp_path: Path) -> Path:
    quantized(model, tmp_path / "out")
    return tmp_path / "out"


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(folder).state_dict())


def test_a_text_or_a_companion_that_was_altered_is_named(out: Path) -> None:
    text = next((out / "formats").iterdir())
    for file, read in (
        (text, lambda: read_checkpoint(out).formats),
        (out / INDEX, lambda: read_checkpoint(out).check_files()),
        (out / "config.json", lambda: read_checkpoint(out).check_files()),
        (out / "kept-00001.safetensors", lambda: read_checkpoint(out).check_files()),
        (out / "tokenizer.json", lambda: read_checkpoint(out).check_files()),
    ):
        data = file.read_bytes()
        read()
        for damaged in (data[:-1], data.replace(b"e", b"f", 1), None):
            if damaged is None:
                file.unlink()
            else:
                file.write_bytes(damaged)
            with pytest.raises(CorruptFile, match=file.name):
                read()
        file.write_bytes(data)


@pytest.mark.parametrize(
    "file", ["quantized-00001.safetensors", "kept-00001.safetensors", MANIFEST]
)
def test_a_missing_file_is_refused(out: Path, file: str) -> None:
    (out / file).unlink()
    with pytest.raises(CorruptFile) as caught:
        read_all(out)
    assert file in str(caught.value)


@pytest.mark.parametrize(
    "file", ["quantized-00001.safetensors", "kept-00001.safetensors", MANIFEST]
)
def test_a_truncated_checkpoint_is_refused(out: Path, file: str) -> None:
    data = (out / file).read_bytes()
    for length in range(0, len(data), len(data) // 12):
        (out / file).write_bytes(data[:length])
        with pytest.raises(CorruptFile, match=file.split(".", maxsplit=1)[0]):
            read_all(out)


@pytest.mark.parametrize(
    "file", ["quantized-00001.safetensors", "kept-00001.safetensors", MANIFEST]
)
def test_an_altered_byte_never_gives_other_weights(out: Path, file: str) -> None:
    data = (out / file).read_bytes()
    before = read_all(out)
    rng = random.Random(3)
    harmless = 0
    for _ in range(40):
        altered = bytearray(data)
        place = rng.randrange(len(data) if rng.random() < 0.5 else 600)
        altered[place] = (altered[place] + rng.randrange(1, 256)) % 256
        (out / file).write_bytes(altered)
        try:
            after = read_all(out)
        except CorruptFile:
            continue
        harmless += 1
        assert list(after) == list(before)
        assert all(
            torch.equal(after[n].view(torch.int16), before[n].view(torch.int16)) for n in after
        )
    assert harmless < 12


def drop_a_tensor(manifest: dict) -> None:
    del manifest["tensors"]["lm_head.weight"]


def rename_a_tensor(manifest: dict) -> None:
    manifest["tensors"]["other.weight"] = manifest["tensors"].pop("lm_head.weight")


def change_the_level(manifest: dict) -> None:
    manifest["tensors"][next(iter(LINEAR))]["tensor_scale"] = "0x1.0p+0"


def change_the_shape(manifest: dict) -> None:
    manifest["tensors"][next(iter(LINEAR))]["shape"] = [40, 24]


def escape(manifest: dict) -> None:
    manifest["tensors"]["lm_head.weight"]["file"] = "../model/model-00001-of-00002.safetensors"


def swap(manifest: dict) -> None:
    tensors = manifest["tensors"]
    tensors["model.norm.weight"]["sha256"] = tensors["lm_head.weight"]["sha256"]


def newer(manifest: dict) -> None:
    manifest["layout"] = 99


EDITS = [drop_a_tensor, rename_a_tensor, change_the_level, change_the_shape, escape, swap, newer]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_edited_manifest_is_refused(out: Path, edit: Callable[[dict], None]) -> None:
    manifest = json.loads((out / MANIFEST).read_text())
    edit(manifest)
    (out / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CorruptFile, match=r"SHA-256|layout"):
        read_checkpoint(out)


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_a_forged_manifest_cannot_lead_outside_or_change_a_tensor(
    out: Path, edit: Callable[[dict], None]
) -> None:
    manifest = json.loads((out / MANIFEST).read_text())
    edit(manifest)
    manifest["sha256"] = digest_of_manifest(manifest)
    (out / MANIFEST).write_text(json.dumps(manifest))
    if edit is drop_a_tensor:
        assert "lm_head.weight" not in read_all(out)
        return
    with pytest.raises(CorruptFile):
        read_all(out)


@pytest.mark.parametrize(
    "text", ["", "[]", "5", "{}", '{"tensors": {}}', "[" * 100_000, "\xff\xfe"]
)
def test_a_manifest_that_is_none_is_refused(out: Path, text: str) -> None:
    (out / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(CorruptFile, match=MANIFEST):
        read_checkpoint(out)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CorruptFile, match="is no fmtc checkpoint"):
            read_checkpoint(path)


def test_whoever_may_read_the_manifest_may_read_the_weights(model: Path, tmp_path: Path) -> None:
    quantized(model, tmp_path / "out")
    modes = {p.suffix: p.stat().st_mode for p in (tmp_path / "out").iterdir()}
    assert modes[".safetensors"] == modes[".json"]
