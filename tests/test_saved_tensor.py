from __future__ import annotations

import json
import os
import random
import struct
import sys
from pathlib import Path

import fmtc
import ml_dtypes
import numpy as np
import pytest
import torch
from fmtc import CorruptFile, Format, MissingPackage, QuantizedTensor
from fmtc.runtime.quantized import METADATA_KEY, digest
from representatives import ANY_SHAPE

NAMES = ANY_SHAPE
TORCH_TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def gaussian(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (3, 50), (2, 2, 33)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_saved_tensor_is_loaded_as_it_was(
    name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    file = tmp_path / "w.safetensors"
    q = fmtc.load(name).quantize(gaussian(shape).astype(np.float16))
    q.save(file)
    again = QuantizedTensor.load(file)
    assert again.format == q.format
    assert again.format.source == q.format.source
    assert isinstance(again.format, Format)
    assert (again.shape, again.dtype, again.framework) == (shape, "float16", "numpy")
    assert (again.level, again.nbytes) == (q.level, q.nbytes)
    assert same_bits(again.dequantize(), q.dequantize())


@pytest.mark.parametrize("dtype", TORCH_TYPES, ids=str)
def test_a_saved_torch_tensor_is_loaded_as_torch(dtype: torch.dtype, tmp_path: Path) -> None:
    q = fmtc.load("sop_pair").quantize(torch.from_numpy(gaussian((2, 40))).to(dtype))
    q.save(str(tmp_path / "w.safetensors"))
    y = QuantizedTensor.load(str(tmp_path / "w.safetensors")).dequantize()
    assert y.dtype == dtype
    assert torch.equal(y, q.dequantize())


def test_a_saved_file_is_a_plain_safetensors_file(tmp_path: Path) -> None:
    from safetensors import safe_open

    file = tmp_path / "w.safetensors"
    q = fmtc.load("po2_nf4").quantize(gaussian((3, 50)))
    q.save(file)
    with safe_open(file, framework="np") as handle:
        assert set(handle.keys()) == {"codes", "scales"}
        description = json.loads(handle.metadata()[METADATA_KEY])
    assert description["format"]["hash"] == q.format.content_hash
    assert fmtc.compile_text(description["format"]["text"]) == q.format


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, bytes, QuantizedTensor]:
    file = tmp_path / "w.safetensors"
    q = fmtc.load("nvfp4").quantize(gaussian((5, 50)))
    q.save(file)
    return file, file.read_bytes(), q


def test_a_truncated_file_is_refused(saved: tuple[Path, bytes, QuantizedTensor]) -> None:
    file, data, _ = saved
    lengths = {0, 1, 7, 8, 9, len(data) - 1, *range(0, len(data), max(1, len(data) // 45))}
    assert len(lengths) >= 45
    for length in lengths:
        file.write_bytes(data[:length])
        with pytest.raises(CorruptFile, match=r"w\.safetensors"):
            QuantizedTensor.load(file)
    file.write_bytes(data + b"\0")
    with pytest.raises(CorruptFile):
        QuantizedTensor.load(file)


def test_an_altered_byte_never_gives_another_tensor(
    saved: tuple[Path, bytes, QuantizedTensor],
) -> None:
    file, data, q = saved
    rng = random.Random(11)
    header = 8 + struct.unpack("<Q", data[:8])[0]
    places = [rng.randrange(len(data)) for _ in range(150)]
    places += [rng.randrange(header) for _ in range(100)]
    harmless = 0
    for place in places:
        altered = bytearray(data)
        altered[place] = (altered[place] + rng.randrange(1, 256)) % 256
        file.write_bytes(altered)
        try:
            again = QuantizedTensor.load(file)
        except CorruptFile:
            continue
        harmless += 1
        assert (again.format, again.format.source) == (q.format, q.format.source)
        assert same_bits(again.dequantize(), q.dequantize())
    assert harmless < 25


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shape", [10, 25]),
        ("shape", [5, 49]),
        ("shape", [5, 1, 50]),
        ("shape", "no list"),
        ("dtype", "float16"),
        ("framework", "torch"),
        ("tensor_scale", (0.5).hex()),
        ("tensor_scale", "0x1p+99999"),
        ("shift", 3),
        ("shift", float("inf")),
        ("sha256", "0" * 64),
        ("sha256", None),
        ("format", None),
        ("format", {"name": "nvfp4", "hash": "0" * 64, "text": 5}),
    ],
)
def test_an_altered_description_is_refused_even_with_a_matching_digest(
    saved: tuple[Path, bytes, QuantizedTensor], key: str, value: object
) -> None:
    from safetensors.numpy import load, save

    file, data, _ = saved
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    description = json.loads(header["__metadata__"][METADATA_KEY])
    streams = load(data)
    for forge in (False, True):
        altered = {**description, key: value}
        if forge and key != "sha256":
            altered["sha256"] = digest(altered, streams)
        file.write_bytes(save(streams, {METADATA_KEY: json.dumps(altered)}))
        harmless = forge and key in {"shape", "dtype", "framework", "tensor_scale", "shift"}
        if harmless and value in ([5, 1, 50], [5, 49], "float16", "torch", (0.5).hex(), 3):
            continue  # a forged digest over a possible description is a file of fmtc
        with pytest.raises(CorruptFile, match=r"w\.safetensors"):
            QuantizedTensor.load(file)


def test_a_file_with_a_faulty_format_text_is_refused(
    saved: tuple[Path, bytes, QuantizedTensor],
) -> None:
    from safetensors.numpy import load, save

    file, data, _ = saved
    streams = load(data)
    for text, words in (
        ("format nvfp4 { block 0 }", "holds a .fmt text with faults"),
        (fmtc.load("nf4").source, "was written for the format hash"),
    ):
        header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
        description = json.loads(header["__metadata__"][METADATA_KEY])
        description["format"]["text"] = text
        description["sha256"] = digest(description, streams)
        file.write_bytes(save(streams, {METADATA_KEY: json.dumps(description)}))
        with pytest.raises(CorruptFile, match=words):
            QuantizedTensor.load(file)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save

    file = tmp_path / "w.safetensors"
    for data, words in (
        (b"", "no whole safetensors file"),
        (b"PK\x03\x04 a zip file", "no whole safetensors file"),
        (bytes(1000), "no whole safetensors file|not written by fmtc"),
        (save({"codes": np.zeros(4, np.uint8)}), "not written by fmtc"),
        (save({"codes": np.zeros(4, np.uint8)}, {"fmtc": "[]"}), "damaged description"),
        (save({"codes": np.zeros(4, np.uint8)}, {"fmtc": "{"}), "not written by fmtc"),
        (save({"codes": np.zeros(4, np.uint8)}, {"fmtc": "[" * 100_000}), "not written by fmtc"),
        (save({"x": np.zeros(4, np.float32)}, {"format": "pt"}), "not written by fmtc"),
    ):
        file.write_bytes(data)
        with pytest.raises(CorruptFile, match=words):
            QuantizedTensor.load(file)


def test_a_missing_package_is_named_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    q = fmtc.load("nf4").quantize(gaussian((1, 64)).astype(ml_dtypes.bfloat16))
    turned = fmtc.load("nf4").quantize(torch.zeros(64))
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(MissingPackage, match=r"'safetensors': pip install 'fmtc\[torch\]'"):
        q.save(tmp_path / "w.safetensors")
    with pytest.raises(MissingPackage, match="'safetensors'"):
        QuantizedTensor.load(tmp_path / "w.safetensors")
    with pytest.raises(MissingPackage, match="'ml_dtypes'"):
        q.dequantize()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingPackage, match="'torch'"):
        turned.dequantize()


def test_an_absent_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        QuantizedTensor.load(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_a_crash_while_saving_leaves_the_old_file(
    saved: tuple[Path, bytes, QuantizedTensor], monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    file, data, q = saved

    def crash(*arguments: object) -> None:
        raise OSError("the disk is full")

    if failing == "replace":
        monkeypatch.setattr(Path, "replace", crash)
    else:
        monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="disk is full"):
        fmtc.load("mxfp4").quantize(gaussian((2, 32))).save(file)
    monkeypatch.undo()
    assert file.read_bytes() == data
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    assert same_bits(QuantizedTensor.load(file).dequantize(), q.dequantize())


def test_saving_keeps_permissions_and_follows_links(tmp_path: Path) -> None:
    q = fmtc.load("nf4").quantize(gaussian((1, 64)))
    file, link = tmp_path / "real.safetensors", tmp_path / "link.safetensors"
    file.write_bytes(b"")
    file.chmod(0o600)
    link.symlink_to(file)
    q.save(link)
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o600
    assert QuantizedTensor.load(file).shape == (1, 64)
    old = os.umask(0o027)
    try:
        q.save(tmp_path / "deep" / "new.safetensors")
    finally:
        os.umask(old)
    assert (tmp_path / "deep" / "new.safetensors").stat().st_mode & 0o777 == 0o640
