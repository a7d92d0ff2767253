from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import fmtc
import gguf
import numpy as np
import pytest
import torch
from fmtc import CorruptFile, MissingPackage, RefusedInput, UnusableModel
from fmtc.runtime import atomic, checkpoint
from fmtc.runtime.checkpoint import MANIFEST, Checkpoint, read_checkpoint, write_checkpoint
from fmtc.runtime.compare import compare_formats
from fmtc.runtime.sources import ModelSource, is_linear_weight, open_source
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
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("name", fmtc.names())
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
    octets = sum(p.stat().st_size for p in out.glob("quantized-*.safetensors"))
    count = sum(original[key].numel() for key in LINEAR)
    manifest = json.loads((out / MANIFEST).read_text())
    fmt = fmtc.compile_text(next(iter(manifest["formats"].values()))["text"])
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
    assert names == {
        MANIFEST,
        "quantized-00001.safetensors",
        "kept-00001.safetensors",
        "config.json",
        "tokenizer.json",
        "chat_template.jinja",
    }
    for name in ("config.json", "tokenizer.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (model / name).read_bytes()


def test_the_same_model_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    quantized(model, tmp_path / "one")
    quantized(model, tmp_path / "two")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_large_models_are_cut_into_files(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 1000)
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


GGUF_SHAPES = {
    "token_embd.weight": (32, 64),
    "blk.0.attn_q.weight": (64, 64),
    "blk.0.attn_norm.weight": (64,),
    "blk.0.ffn_up.weight": (96, 64),
    "output.weight": (32, 64),
}


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    """A GGUF file whose linear weights are F32 and Q8_0 and whose embedding is F16."""
    rng = np.random.default_rng(2)
    file = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(128)
    for name, shape in GGUF_SHAPES.items():
        values = rng.standard_normal(shape).astype(np.float32)
        if name == "token_embd.weight":
            writer.add_tensor(name, values.astype(np.float16))
        elif name == "blk.0.ffn_up.weight":
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_gguf_file_becomes_a_checkpoint(gguf_file: Path, tmp_path: Path) -> None:
    made = quantized(gguf_file, tmp_path / "out", "po2_nf4")
    assert set(made.quantized_names) == {"blk.0.attn_q.weight", "blk.0.ffn_up.weight"}
    reader = {tensor.name: tensor for tensor in gguf.GGUFReader(gguf_file).tensors}
    for key, tensor in made.state_dict():
        x = torch.from_numpy(gguf.dequantize(reader[key].data, reader[key].tensor_type).copy())
        assert tuple(tensor.shape) == GGUF_SHAPES[key]
        if key in made.quantized_names:
            assert torch.equal(tensor, fmtc.load("po2_nf4").quantize(x).dequantize())
        else:
            assert torch.equal(tensor, x)
    totals = made.totals(open_source(gguf_file))
    assert totals.weights == 64 * 64 + 96 * 64
    assert 0.004 < totals.nmse < 0.02


def read_source(path: Path) -> dict[str, torch.Tensor]:
    source = open_source(path)
    return {name: source.get(name) for name in source.names}


def test_a_truncated_gguf_file_is_refused(gguf_file: Path) -> None:
    data = gguf_file.read_bytes()
    for length in {0, 3, 4, 20, *range(0, len(data), len(data) // 25)}:
        gguf_file.write_bytes(data[:length])
        with pytest.raises(CorruptFile, match=r"model\.gguf"):
            read_source(gguf_file)


def test_linear_weights_are_told_from_tables_heads_and_norms() -> None:
    tensor = torch.zeros(4, 4)
    for name in [*LINEAR, "transformer.h.0.attn.c_attn.weight", "blk.3.ffn_down.weight"]:
        assert is_linear_weight(name, tensor), name
    for name in [*KEPT, "transformer.wte.weight", "output.weight", "token_embd.weight"]:
        assert not is_linear_weight(name, tensor), name
    name = next(iter(LINEAR))
    assert not is_linear_weight(name, torch.zeros(4))
    assert not is_linear_weight(name, torch.zeros(4, 4, dtype=torch.int8))
    assert not is_linear_weight(name.replace("weight", "scales"), tensor)


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
        monkeypatch.setattr(checkpoint.shutil, "copyfile", crash)
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
    manifest["sha256"] = checkpoint._digest_of_manifest(manifest)
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


# -- unusable models -----------------------------------------------------------------------


def test_a_model_without_linear_weights_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "norms.safetensors"
    save_file({"model.norm.weight": torch.ones(8)}, file)
    with pytest.raises(UnusableModel, match="no linear weight"):
        quantized(file, tmp_path / "out")
    with pytest.raises(UnusableModel, match="no linear weight"):
        compare_formats([fmtc.load("nf4")], str(file))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("value", "words"), [(np.nan, "a NaN"), (np.inf, "an infinity")])
def test_a_weight_that_is_not_finite_is_named(value: float, words: str, tmp_path: Path) -> None:
    tensors = weights()
    name = next(iter(LINEAR))
    tensors[name][3, 7] = value
    file = tmp_path / "model.safetensors"
    save_file(tensors, file)
    for refuse in (
        lambda: quantized(file, tmp_path / "out", "nf4"),
        lambda: compare_formats([fmtc.load("nf4")], str(file)),
    ):
        with pytest.raises(RefusedInput) as caught:
            refuse()
        assert name in str(caught.value)
        assert f"{words} at [3, 7]" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_weights_of_a_type_that_is_not_taken_are_named(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    name = next(iter(LINEAR))
    save_file({name: torch.zeros(8, 8, dtype=torch.float8_e4m3fn)}, file)
    with pytest.raises(UnusableModel, match=f"{name}.*float8_e4m3fn"):
        quantized(file, tmp_path / "out")


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda _: None, UnusableModel, "no .safetensors files"),
        (lambda folder: folder / "absent", UnusableModel, "there is no model at"),
        (lambda folder: write(folder / "a.bin", b"x"), UnusableModel, "is no model: give"),
        (lambda folder: write(folder / "a.safetensors", b"x"), CorruptFile, "no whole safetensors"),
        (lambda folder: write(folder / "a.gguf", b"GGUF"), CorruptFile, "no whole GGUF file"),
    ],
    ids=["empty_folder", "absent", "unknown", "broken_safetensors", "broken_gguf"],
)
def test_what_is_no_model_is_refused(
    make: Callable[[Path], Path | None], error: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        open_source(make(tmp_path) or tmp_path)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("[]", "is no index"),
        ("{", "is no index"),
        ('{"weight_map": ["a"]}', "is no index"),
        ('{"weight_map": {"a": "../secret.safetensors"}}', "outside its folder"),
        ('{"weight_map": {"a": "absent.safetensors"}}', "no whole safetensors file"),
        ('{"weight_map": {"a.weight": "model-00001-of-00002.safetensors"}}', "lists a.weight"),
    ],
)
def test_a_damaged_index_is_refused(model: Path, index: str, words: str) -> None:
    (model / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CorruptFile, match=words):
        open_source(model)


def test_a_truncated_shard_of_the_model_is_refused(model: Path) -> None:
    file = model / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CorruptFile, match="model-00002"):
        open_source(model)


@pytest.mark.parametrize(
    ("package", "extra", "suffix"),
    [("safetensors", "torch", "safetensors"), ("gguf", "model", "gguf")],
)
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    package: str, extra: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / f"model.{suffix}", b"")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackage) as caught:
        open_source(file)
    assert package in str(caught.value)
    assert f"pip install 'fmtc[{extra}]'" in str(caught.value)


def test_formats_are_compared_on_a_models_linear_weights(model: Path) -> None:
    formats = [fmtc.load(name) for name in ("nvfp4", "po2_nf4")]
    seen: list[str] = []
    rows = compare_formats(formats, str(model), progress=lambda what, *_: seen.append(what))
    x = [weights()[name].float().numpy() for name in LINEAR]
    for fmt, row in zip(formats, rows, strict=True):
        packed = [fmt.quantize(w) for w in x]
        error = sum(
            float(((w - q.dequantize()).astype(np.float64) ** 2).sum())
            for w, q in zip(x, packed, strict=True)
        )
        energy = sum(float((w.astype(np.float64) ** 2).sum()) for w in x)
        assert row["format"] == fmt.name
        assert row["NMSE"] == pytest.approx(error / energy, rel=1e-6)
        assert row["SQNR dB"] == pytest.approx(10 * np.log10(energy / error), rel=1e-6)
        assert row["bpw"] == 8 * sum(q.nbytes for q in packed) / sum(w.size for w in x)
    assert len(seen) == len(formats) * len(LINEAR)


def test_a_source_of_ones_own_can_be_quantized(tmp_path: Path) -> None:
    tensors = weights(torch.float32)
    source = ModelSource(Path("in memory"), tuple(tensors), tensors.__getitem__)
    made = write_checkpoint(source, fmtc.load("nf4"), tmp_path / "out")
    assert set(made.quantized_names) == set(LINEAR)
