"""Conformance packs: committed for a core set, made for every format, readable by their README."""

from __future__ import annotations

import json
from pathlib import Path

import fmtc
import numpy as np
import pytest
from commands import run
from fmtc.codegen.vectors.tensors import tensor_lines
from fmtc.compiler.reference import TensorLevel
from fmtc.runtime.backend import BackendUnavailable
from fmtc.runtime.choose import backend_for
from regenerate import GOLDEN, PACKS, pack_of
from representatives import EACH_KIND


def octets(rows: list[str]) -> np.ndarray:
    return np.array([list(bytes.fromhex(row)) for row in rows], np.uint8).reshape(len(rows), -1)


def numbers(rows: list[str]) -> np.ndarray:
    return np.stack([np.frombuffer(bytes.fromhex(row), ">u4").astype(np.uint32) for row in rows])


@pytest.mark.parametrize("name", PACKS)
def test_a_committed_pack_is_what_the_format_makes_today(name: str) -> None:
    for file, text in pack_of(name).items():
        assert (GOLDEN / "vectors" / file).read_text(encoding="utf-8") == text, "make golden"


@pytest.mark.parametrize("backend", ["reference", "c"])
@pytest.mark.parametrize("name", EACH_KIND)
def test_a_pack_can_be_read_by_its_readme_and_every_back_end_conforms(
    name: str, backend: str
) -> None:
    fmt = fmtc.load(name)
    try:
        made = backend_for(fmt, backend)
    except BackendUnavailable as reason:
        pytest.skip(str(reason))
    head, *lines = map(json.loads, tensor_lines(fmt).splitlines())
    assert (head["format"], head["hash"]) == (name, fmt.content_hash)
    cases = {line["case"] for line in lines}
    assert {"gaussian", "ties"} <= cases
    for line in lines:
        scale = np.uint32(int(line["tensor_scale"], 16)).view(np.float32)
        level = TensorLevel(float(scale), line["shift"])
        x = numbers(line["x"]).view(np.float32)
        assert list(x.shape) == line["shape"]
        weights = numbers([line["weights"]])[0].view(np.float32) if "weights" in line else None
        streams = made.encode(x, level, weights)
        assert streams.keys() == line["streams"].keys()
        for stream, rows in line["streams"].items():
            assert np.array_equal(streams[stream], octets(rows)), (line["case"], stream)
        decoded = made.decode(streams, x.shape[1], level)
        expected = numbers(line["decoded"])
        nan = np.isnan(decoded)
        assert np.array_equal(nan, expected == 0x7FC00000)
        assert np.array_equal(decoded.view(np.uint32)[~nan], expected[~nan]), line["case"]


@pytest.mark.parametrize("name", fmtc.names())
def test_every_shipped_format_has_vectors(name: str) -> None:
    text = tensor_lines(fmtc.load(name))
    assert text.count("\n") >= 3
    assert len(text) < 1_000_000


def test_the_command_writes_a_folder_for_each_format(tmp_path: Path) -> None:
    result = run("vectors", "mxfp4", "q4_0", "-o", tmp_path, "--json")
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    assert [row["format"] for row in rows] == ["mxfp4", "q4_0"]
    assert {p.name for p in (tmp_path / "q4_0").iterdir()} == {
        "q4_0_README.md",
        "q4_0_tensors.jsonl",
        "q4_0.fmt",
    }
    assert (tmp_path / "mxfp4/mxfp4_decoder.memh").is_file()
    readme = (tmp_path / "q4_0/q4_0_README.md").read_text()
    assert fmtc.load("q4_0").content_hash in readme
    assert "`records`" in readme or "`scales`" in readme
