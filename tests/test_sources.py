from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import fmtc
import gguf
import numpy as np
import pytest
import torch
from fmtc import CorruptFile, MissingPackage, RefusedInput, UnusableModel
from fmtc.runtime.checkpoint import Checkpoint
from fmtc.runtime.checkpoint_writer import write_checkpoint
from fmtc.runtime.judge.compare import compare_formats
from fmtc.runtime.sources import ModelSource, is_linear_weight, open_source
from safetensors.torch import save_file

LINEAR = {"layers.0.q_proj.weight": (24, 40), "layers.0.up_proj.weight": (56, 24)}
KEPT = {"embed_tokens.weight": (64, 24), "layers.0.q_proj.bias": (24,), "lm_head.weight": (64, 24)}


def weights(dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    maker = torch.Generator().manual_seed(5)
    shapes = LINEAR | KEPT
    return {n: torch.randn(shape, generator=maker).to(dtype) for n, shape in shapes.items()}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with two shards and their index."""
    index = {}
    for number, part in enumerate((LINEAR, KEPT), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({n: t for n, t in weights().items() if n in part}, tmp_path / file)
        index |= dict.fromkeys(part, file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return tmp_path


def quantized(model: Path, out: Path, name: str = "nvfp4") -> Checkpoint:
    return write_checkpoint(open_source(model), fmtc.load(name), out)


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
        assert is_linear_weight(name, tensor.shape, str(tensor.dtype)), name
    for name in [*KEPT, "transformer.wte.weight", "output.weight", "token_embd.weight"]:
        assert not is_linear_weight(name, tensor.shape, str(tensor.dtype)), name
    name = next(iter(LINEAR))
    assert not is_linear_weight(name, (4,), "float32")
    assert not is_linear_weight(name, (4, 4), "int8")
    assert not is_linear_weight(name.replace("weight", "scales"), (4, 4), "float32")


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
    source = ModelSource.of_tensors(Path("in memory"), tensors)
    made = write_checkpoint(source, fmtc.load("nf4"), tmp_path / "out")
    assert set(made.quantized_names) == set(LINEAR)
