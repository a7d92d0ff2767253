from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fmtc
import numpy as np
import pytest
import torch
from fmtc import CorruptFile, RefusedInput, UnusableModel
from fmtc.runtime.atomic import folder_atomically
from fmtc.runtime.checkpoint_writer import CheckpointWriter
from fmtc.runtime.export import export
from fmtc.runtime.export import gguf as gguf_export
from fmtc.runtime.export.gguf_types import type_of
from fmtc.runtime.export.schemes import scheme_of, tensors_of
from fmtc.runtime.models import load_gguf_model
from fmtc.runtime.models.loading import load_model, quiet
from fmtc.runtime.sources import ModelSource, open_source
from model_tools import tiny_llama

with quiet():
    import compressed_tensors.compressors
    from compressed_tensors.quantization import QuantizationScheme
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

IDS = torch.arange(48)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS, use_cache=False).logits


def from_pretrained(folder: Path, **said: Any) -> Any:
    with quiet():
        return AutoModelForCausalLM.from_pretrained(folder, **said)


def llama(folder: Path) -> Path:
    """A tiny Llama whose tokenizer splits digits as SmolLM's does."""
    with quiet():
        tiny_llama(folder, layers=1)
    file = folder / "tokenizer.json"
    said = json.loads(file.read_text())
    digits = {"type": "Digits", "individual_digits": True}
    both = {"type": "Sequence", "pretokenizers": [digits, said["pre_tokenizer"]]}
    file.write_text(json.dumps(said | {"pre_tokenizer": both}))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture(scope="module")
def nvfp4(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantized(model, tmp_path_factory.mktemp("nvfp4") / "out", "nvfp4")


def quantized(model: Path, out: Path, fmt: str) -> Path:
    fmtc.write_checkpoint(open_source(model), fmtc.load(fmt), out)
    return out


def quantized_by(model: Path, out: Path, formats: dict[str, str]) -> Path:
    """Each matrix in the format of the first part of a name that it has, else in nvfp4."""
    source = open_source(model)
    linear = set(source.linear_names)
    with folder_atomically(out) as folder:
        writer = CheckpointWriter(folder)
        for name in source.names:
            if name in linear:
                fmt = next((f for part, f in formats.items() if part in name), "nvfp4")
                writer.add(name, fmtc.load(fmt).quantize(source.get(name)))
            else:
                writer.keep(name, source.get(name))
        writer.finish(source.companions)
    return out


# -- compressed-tensors -----------------------------------------------------------------------

RUN = {
    "nvfp4": "bfloat16",
    "nvfp4_one_level": "bfloat16",
    "nvfp4_compressed_tensors": "bfloat16",
    "mxfp4_even": "bfloat16",
    "gguf_mxfp4": "bfloat16",
    "int4_sym_g32": "float32",
    "int4_row": "float32",
    "int8_sym_row": "float32",
    "int8_tensor": "float32",
    "q4_0": "float32",
}


def slow_but(quick: tuple[str, ...], names: Iterable[str]) -> list[Any]:
    """All names as parameters, of which only some are tried every time."""
    slow = pytest.mark.slow
    return [pytest.param(n, marks=() if n in quick else slow) for n in names]


@pytest.mark.parametrize("fmt", slow_but(("nvfp4", "mxfp4_even", "int4_sym_g32", "q4_0"), RUN))
def test_compressed_tensors_runs_what_was_measured(model: Path, tmp_path: Path, fmt: str) -> None:
    out = quantized(model, tmp_path / "out", fmt)
    done = export(out, tmp_path / "export", "compressed-tensors")
    assert (len(done.packed), done.plain, done.dtype) == (7, (), RUN[fmt])
    assert (done.differing, done.largest) == (0, 0.0)
    # Only transformers, which is run here, has a tensor scale for each of q, k and v.
    fused = fmt in ("nvfp4", "nvfp4_compressed_tensors")
    assert [note[:13] for note in done.notes] == ["2 fused units"] * fused
    theirs = logits(from_pretrained(done.path))
    assert torch.equal(theirs, logits(load_model(out, run="dequantized", dtype=RUN[fmt])))


def test_zero_points_are_those_of_the_library(model: Path, tmp_path: Path) -> None:
    out = quantized(model, tmp_path / "out", "int8_asym_row")
    done = export(out, tmp_path / "export", "compressed-tensors")
    assert done.differing == 0
    assert "loads no zero points" in done.notes[0]
    said = CompressedTensorsConfig(dequantize=True)
    with pytest.warns(UserWarning, match="loading attributes"):
        theirs = logits(from_pretrained(done.path, quantization_config=said))
    assert torch.equal(theirs, logits(load_model(out, run="dequantized")))


def test_groups_of_several_schemes_name_their_layers(model: Path, tmp_path: Path) -> None:
    out = quantized_by(model, tmp_path / "out", {"q_proj": "mxfp4", "down_proj": "int4_sym_g32"})
    done = export(out, tmp_path / "export", "compressed-tensors")
    said = json.loads((done.path / "config.json").read_text())
    groups = said["quantization_config"]["config_groups"].values()
    found = {group["format"]: len(group["targets"]) for group in groups}
    assert found == {
        "nvfp4-pack-quantized": 5,
        "mxfp4-pack-quantized": 1,
        "pack-quantized": 1,
    }
    assert said["quantization_config"]["format"] == "mixed-precision"
    assert "lm_head" in said["quantization_config"]["ignore"]
    assert done.dtype == said["dtype"] == "bfloat16"
    assert "scales of integers are stored as float32" in done.notes[0]


def test_the_bytes_of_a_matrix_are_copied(nvfp4: Path, tmp_path: Path) -> None:
    done = export(nvfp4, tmp_path / "export", "compressed-tensors")
    source, checkpoint = open_source(done.path), fmtc.read_checkpoint(nvfp4)
    for name in checkpoint.quantized_names:
        q, stem = checkpoint.quantized(name), name.removesuffix(".weight")
        assert source.get(f"{stem}.weight_packed").numpy().tobytes() == q.streams["codes"].tobytes()
        scales = source.get(f"{stem}.weight_scale").view(torch.uint8).numpy()
        assert scales.tobytes() == q.streams["scales"].tobytes()


def test_a_tensor_scale_of_few_bits_is_the_one_that_an_inverse_cannot_give() -> None:
    rng = np.random.default_rng(0)
    apart = {}
    for level in ("0x1.f8p-13", "0x1.e91346p-13"):
        peak = 2688 * float.fromhex(level)
        x = rng.standard_normal((64, 256)).astype(np.float32) * np.float32(0.1)
        x[0, 0] = peak
        q = fmtc.load("nvfp4").quantize(np.clip(x, -peak, peak))
        scheme = scheme_of(q.format, 256)
        said = QuantizationScheme(targets=["x"], weights=scheme.weights(), format=scheme.format)
        library = compressed_tensors.compressors.BaseCompressor
        decompress = library.get_value_from_registry(scheme.format).decompress
        theirs = decompress(tensors_of(q, scheme), said)["weight"]
        apart[level] = int((theirs != torch.from_numpy(q.to_float32()).bfloat16()).sum())
    few, many = apart.values()
    assert few > 0
    assert many == 0


@pytest.mark.parametrize(
    ("fmt", "why"),
    [
        ("nf4", "neither E2M1 nor integers"),
        ("sop_pair", "more than one grid"),
        ("nf4_dd4_opq_wr", "more than one grid|outliers or residuals"),
        ("q4_1", "adds a minimum"),
        ("nvfp4_16x16", "tiles of several rows"),
        ("int4_sym_g128", "rows of 64 do not divide into blocks of 128"),
    ],
)
def test_compressed_tensors_refuses_a_matrix_that_it_has_no_scheme_for(
    model: Path, tmp_path: Path, fmt: str, why: str
) -> None:
    out = quantized_by(model, tmp_path / "out", {"k_proj": fmt})
    with pytest.raises(RefusedInput, match=rf"k_proj\.weight is in '{fmt}'.*({why}).*--mixed"):
        export(out, tmp_path / "export", "compressed-tensors")
    assert not (tmp_path / "export").exists()


def test_a_mixed_export_writes_the_others_decoded(model: Path, tmp_path: Path) -> None:
    out = quantized_by(model, tmp_path / "out", {"k_proj": "sop_pair"})
    done = export(out, tmp_path / "export", "compressed-tensors", mixed=True)
    name = "model.layers.0.self_attn.k_proj.weight"
    assert done.plain == (name,)
    exact = fmtc.read_checkpoint(out).quantized(name).to_float32()
    assert torch.equal(open_source(done.path).get(name), torch.from_numpy(exact).bfloat16())
    wanted = logits(load_model(out, run="dequantized", dtype="bfloat16"))
    assert torch.equal(logits(from_pretrained(done.path)), wanted)


# -- GGUF -------------------------------------------------------------------------------------


BLOCKS = ("q4_0", "q4_1", "q5_0", "q8_0", "iq4_nl", "gguf_mxfp4", "gguf_nvfp4", "mxfp4_rceil")


@pytest.mark.parametrize("fmt", slow_but(("q4_1", "q8_0", "gguf_nvfp4", "mxfp4_rceil"), BLOCKS))
def test_a_gguf_file_is_the_model_that_was_measured(model: Path, tmp_path: Path, fmt: str) -> None:
    out = quantized(model, tmp_path / "out", fmt)
    done = export(out, tmp_path / "model.gguf", "gguf")
    assert (len(done.packed), done.plain, done.differing) == (7, (), 0)
    loaded = load_gguf_model(done.path)
    assert torch.equal(logits(loaded.model), logits(load_model(out, run="dequantized")))


@pytest.mark.slow
def test_a_gguf_file_of_super_blocks(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    home = llama(tmp_path / "model")
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=320, hidden_size=256, intermediate_size=512, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    with quiet():
        LlamaForCausalLM(config).save_pretrained(home)
    out = quantized(home, tmp_path / "out", "q4_k")
    done = export(out, tmp_path / "model.gguf", "gguf")
    wanted = logits(load_model(out, run="dequantized"))
    assert torch.equal(logits(load_gguf_model(done.path).model), wanted)


def test_a_gguf_file_has_the_tokenizer(model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    out = quantized(model, tmp_path / "out", "q8_0")
    loaded = load_gguf_model(export(out, tmp_path / "model.gguf", "gguf").path)
    text = "In the 27th year the raven spoke, and 1984 kings' words weren't heard.\n  Été!"
    assert loaded.encode(text) == AutoTokenizer.from_pretrained(model)(text)["input_ids"]


def test_gguf_types_are_told_by_what_bytes_mean() -> None:
    assert {type_of(fmtc.load(n)) for n in ("mxfp4", "mxfp4_ceil", "gguf_mxfp4")} == {"MXFP4"}
    assert type_of(fmtc.load("q4_0")) == "Q4_0"
    changed = fmtc.compile_text('format mine extends "q8_0" { tie even }')
    assert type_of(fmtc.Format.of(changed)) == "Q8_0"
    for other in ("nvfp4", "int4_sym_g32", "mxfp6_e2m3", "sop_pair", "nf4"):
        assert type_of(fmtc.load(other)) is None


def test_gguf_refuses_a_matrix_that_it_has_no_type_for(model: Path, tmp_path: Path) -> None:
    out = quantized_by(model, tmp_path / "out", {"up_proj": "sop_pair", "": "q4_0"})
    with pytest.raises(RefusedInput, match=r"up_proj\.weight is in 'sop_pair'.*--mixed"):
        export(out, tmp_path / "model.gguf", "gguf")
    done = export(out, tmp_path / "model.gguf", "gguf", mixed=True, dtype="float32")
    assert done.plain == ("model.layers.0.mlp.up_proj.weight",)
    wanted = logits(load_model(out, run="dequantized"))
    assert torch.equal(logits(load_gguf_model(done.path).model), wanted)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model_type": "qwen2"}, "this is 'qwen2'"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "a scaled rotary embedding"),
        ({"attention_bias": True}, "biases"),
    ],
)
def test_gguf_is_written_of_plain_llamas_alone(
    model: Path, tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    home = Path(shutil.copytree(model, tmp_path / "model"))
    config = json.loads((home / "config.json").read_text())
    (home / "config.json").write_text(json.dumps(config | change))
    out = quantized(home, tmp_path / "out", "q8_0")
    with pytest.raises(UnusableModel, match=why):
        export(out, tmp_path / "model.gguf", "gguf")


def test_gguf_refuses_a_tokenizer_that_it_would_guess_at(model: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(model, tmp_path / "model"))
    said = json.loads((home / "tokenizer.json").read_text())
    for step in ({"type": "Whitespace"}, {"type": "ByteLevel", "add_prefix_space": True}):
        (home / "tokenizer.json").write_text(json.dumps(said | {"pre_tokenizer": step}))
        out = quantized(home, tmp_path / "out", "q8_0")
        with pytest.raises(UnusableModel, match="no byte-level BPE"):
            export(out, tmp_path / "model.gguf", "gguf")


# -- plain ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, "float16", "float32"])
def test_a_plain_folder_holds_decoded_weights(
    nvfp4: Path, tmp_path: Path, dtype: str | None
) -> None:
    done = export(nvfp4, tmp_path / "export", "bf16", dtype=dtype)
    kind = getattr(torch, dtype or "bfloat16")
    config = json.loads((done.path / "config.json").read_text())
    assert "quantization_config" not in config
    loaded = from_pretrained(done.path)
    assert loaded.dtype == kind
    assert torch.equal(logits(loaded), logits(load_model(nvfp4, run="dequantized", dtype=kind)))
    assert not (done.path / "fmtc.json").exists()
    assert (done.path / "tokenizer.json").is_file()


def test_tensors_alone_are_exported_too(model: Path, tmp_path: Path) -> None:
    out = quantized(model / "model.safetensors", tmp_path / "out", "sop_pair")
    source = open_source(export(out, tmp_path / "export", "bf16").path)
    checkpoint = fmtc.read_checkpoint(out)
    assert set(source.names) == set(checkpoint.names)
    with pytest.raises(UnusableModel, match=r"has no config\.json"):
        export(out, tmp_path / "other", "compressed-tensors")


def test_a_value_past_the_type_is_refused(tmp_path: Path) -> None:
    x = torch.zeros(4, 64)
    x[0, 0] = 1e9
    source = ModelSource.of_tensors(tmp_path, {"a.weight": x})
    fmtc.write_checkpoint(source, fmtc.load("nvfp4"), tmp_path / "out")
    with pytest.raises(RefusedInput, match=r"a\.weight: values up to 1e\+09 do not fit"):
        export(tmp_path / "out", tmp_path / "export", "bf16", dtype="float16")
    assert not (tmp_path / "export").exists()


# -- all of them ------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["compressed-tensors", "gguf", "bf16"])
def test_a_damaged_checkpoint_is_not_exported(nvfp4: Path, tmp_path: Path, to: str) -> None:
    for number, file in enumerate(sorted(p for p in nvfp4.rglob("*") if p.is_file())):
        copy = Path(shutil.copytree(nvfp4, tmp_path / str(number)))
        damaged = copy / file.relative_to(nvfp4)
        octets = bytearray(damaged.read_bytes())
        octets[-1] ^= 1
        damaged.write_bytes(octets)
        with pytest.raises(CorruptFile) as caught:
            export(copy, tmp_path / f"{number}.gguf", to, mixed=True)
        assert damaged.name in str(caught.value)
        assert not (tmp_path / f"{number}.gguf").exists()
        shutil.rmtree(copy)


def test_what_is_read_back_wrong_is_not_left_there(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = quantized(model, tmp_path / "out", "q8_0")
    place = tmp_path / "exports"

    def wrong(q: Any, kind: str) -> Any:
        del kind
        return q.streams["records"][::-1]

    monkeypatch.setattr(gguf_export, "blocks_of", wrong)
    with pytest.raises(CorruptFile, match=r"reads .* otherwise than it was measured"):
        export(out, place / "model.gguf", "gguf")
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("to", ["compressed-tensors", "gguf", "bf16"])
def test_nothing_is_written_over(nvfp4: Path, tmp_path: Path, to: str) -> None:
    (tmp_path / "mine.gguf").mkdir()
    (tmp_path / "mine.gguf" / "thesis").write_text("years")
    with pytest.raises(FileExistsError, match="left as it is"):
        export(nvfp4, tmp_path / "mine.gguf", to)
    assert (tmp_path / "mine.gguf" / "thesis").read_text() == "years"


def test_other_words_are_refused(nvfp4: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no export to 'onnx'; there are compressed-tensors, gguf"):
        export(nvfp4, tmp_path / "out", "onnx")
    with pytest.raises(RefusedInput, match="no dtype 'int8'"):
        export(nvfp4, tmp_path / "out", "bf16", dtype="int8")
    with pytest.raises(RefusedInput, match=r"has the ending \.gguf"):
        export(nvfp4, tmp_path / "out", "gguf")


def test_an_export_says_how_far_it_is(nvfp4: Path, tmp_path: Path) -> None:
    said: list[tuple[str, int, int]] = []
    export(nvfp4, tmp_path / "export", "bf16", progress=lambda *step: said.append(step))
    assert {what for what, _, _ in said} == {"writing", "reading back"}
    assert [done for what, done, _ in said if what == "writing"] == list(range(11))
