from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fmtc.runtime.safetensors_stream import FIXED_BYTES, SafetensorsWriter, header_bound
from safetensors.numpy import load_file

ARRAYS = {
    "codes": np.arange(7, dtype=np.uint8),
    "wide": np.linspace(0, 1, 6).reshape(2, 3),
    "empty": np.zeros((0, 4), np.uint8),
    "single": np.array(1.5, np.float32),
    "half": np.arange(5, dtype=np.float16),
}
CODES = {"uint8": "U8", "float64": "F64", "float32": "F32", "float16": "F16"}


def written(path: Path) -> Path:
    writer = SafetensorsWriter(path)
    for key, array in ARRAYS.items():
        writer.add(key, CODES[str(array.dtype)], array.shape, array.tobytes())
    assert not path.exists()
    writer.close()
    return path


def test_the_library_reads_what_was_written_tensor_by_tensor(tmp_path: Path) -> None:
    found = load_file(written(tmp_path / "file.safetensors"))
    assert set(found) == set(ARRAYS)
    for key, array in ARRAYS.items():
        assert found[key].dtype == array.dtype
        assert np.array_equal(found[key], array)
    assert [p.name for p in tmp_path.iterdir()] == ["file.safetensors"]


def test_every_tensor_lies_at_a_multiple_of_its_element(tmp_path: Path) -> None:
    import json

    data = written(tmp_path / "file.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    assert header.pop("__metadata__") == {"format": "pt"}
    for key, array in ARRAYS.items():
        begin, end = header[key]["data_offsets"]
        assert begin % array.itemsize == 0
        assert end - begin == array.nbytes
    ends = sorted(tuple(entry["data_offsets"]) for entry in header.values())
    assert [a for a, _ in ends[1:]] == [b for _, b in ends[:-1]]
    bound = sum(header_bound(k, CODES[str(a.dtype)], a.shape) for k, a in ARRAYS.items())
    assert 8 + length <= FIXED_BYTES + bound


def test_bytes_of_another_size_and_taken_names_are_refused(tmp_path: Path) -> None:
    writer = SafetensorsWriter(tmp_path / "file.safetensors")
    with pytest.raises(ValueError, match=r"a: 3 bytes for F16 \(2,\)"):
        writer.add("a", "F16", (2,), b"123")
    writer.add("a", "F16", (2,), b"1234")
    with pytest.raises(ValueError, match="a name that is taken"):
        writer.add("a", "F16", (2,), b"1234")
