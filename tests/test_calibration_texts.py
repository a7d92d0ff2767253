from __future__ import annotations

import bz2
import gzip
import json
import lzma
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from fmtc import CorruptFile, MissingPackage, RefusedInput
from fmtc.runtime.calibration import default_text, read_texts, text_hash, texts
from fmtc.runtime.models import evaluation_text

PACKERS = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}


def test_files_are_joined_in_the_order_given(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("eins")
    (tmp_path / "b.log").write_text("zwei\n")
    assert read_texts([tmp_path / "b.log", str(tmp_path / "a.txt")]) == "zwei\n\n\neins"


@pytest.mark.parametrize("suffix", PACKERS)
def test_compressed_files_read_like_plain_ones(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "a.txt").write_text("größer\n", encoding="utf-8")
    packed = tmp_path / f"a.txt{suffix}"
    packed.write_bytes(PACKERS[suffix]("größer\n".encode()))
    assert read_texts([packed]) == read_texts([tmp_path / "a.txt"])


@pytest.mark.parametrize("suffix", PACKERS)
def test_damaged_compressed_files_are_refused_by_name(tmp_path: Path, suffix: str) -> None:
    octets = PACKERS[suffix](b"one two three " * 400)
    for name, damaged in (("cut", octets[: len(octets) // 2]), ("other", b"not packed")):
        file = tmp_path / f"{name}.txt{suffix}"
        file.write_bytes(damaged)
        with pytest.raises(CorruptFile, match=f"'.*{name}.txt{suffix}' cannot be decompressed"):
            read_texts([file])


def test_json_lines_give_their_texts(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl.gz"
    lines = [json.dumps({"text": t, "id": i}) for i, t in enumerate(("one", "two\r\n"))]
    file.write_bytes(gzip.compress("\n\n".join(lines).encode()))
    assert read_texts([file]) == "one\n\ntwo\n"


@pytest.mark.parametrize(
    ("line", "error", "why"),
    [
        ('{"text": "cut', CorruptFile, "line 2, is no JSON"),
        ('{"body": "x"}', RefusedInput, 'line 2, has no field "text"'),
        ("[1]", RefusedInput, 'line 2, has no field "text"'),
        ('{"text": 3}', RefusedInput, "line 2: the field .* no string"),
    ],
)
def test_bad_json_lines_are_refused_with_their_place(
    tmp_path: Path, line: str, error: type[Exception], why: str
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "one"}\n' + line)
    with pytest.raises(error, match=f"'.*a.jsonl', {why}"):
        read_texts([file])


def test_a_folder_stands_for_its_texts_sorted_by_path(tmp_path: Path) -> None:
    for name, text in {
        "b/z.md": "3",
        "b/a.rst": "2",
        "a.txt": "1",
        "c.txt.gz": "4",
        "image.png": "no",
        ".git/x.txt": "no",
        "code.py": "no",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        octets = text.encode()
        (tmp_path / name).write_bytes(gzip.compress(octets) if name.endswith("gz") else octets)
    assert read_texts([tmp_path]) == "1\n\n2\n\n3\n\n4"


def test_line_ends_and_byte_order_marks_do_not_count(tmp_path: Path) -> None:
    contents = [b"one\ntwo\n", b"one\r\ntwo\r\n", b"\xef\xbb\xbfone\rtwo\r"]
    contents.append("one\r\ntwo\r\n".encode("utf-16"))
    hashes = set()
    for number, octets in enumerate(contents):
        file = tmp_path / f"{number}.txt"
        file.write_bytes(octets)
        hashes.add(text_hash(read_texts([file])))
    assert hashes == {text_hash("one\ntwo\n")}


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"", "has no text in it"),
        (b" \n\t\n", "has no text in it"),
        (b"abc\0def", "is no text: byte 3 is 0"),
        ("größer".encode("latin1"), r"is no UTF-8 text: .* at byte 2; .*iconv -f latin1"),
    ],
    ids=["empty", "blank", "binary", "latin1"],
)
def test_what_is_no_text_is_refused_by_name(tmp_path: Path, octets: bytes, why: str) -> None:
    file = tmp_path / "strange.txt"
    file.write_bytes(octets)
    with pytest.raises(RefusedInput, match=f"'.*strange.txt' {why}"):
        read_texts([file])


def test_absent_files_and_folders_without_text_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no text '.*nowhere.txt'"):
        read_texts([tmp_path / "nowhere.txt"])
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    with pytest.raises(RefusedInput, match=r"has no text files \(\.jsonl, \.md"):
        read_texts([tmp_path])
    with pytest.raises(RefusedInput, match="no text was given"):
        read_texts([])


def fake_datasets(rows: list[dict[str, object]], asked: list[object]) -> ModuleType:
    def load(name: str, config: str | None, *, split: str, streaming: bool) -> object:
        asked.append((name, config, split, streaming))
        if name == "absent":
            raise ValueError("no such set")
        return iter(rows)

    module = ModuleType("datasets")
    module.__dict__.update(SimpleNamespace(load_dataset=load).__dict__)
    return module


def test_a_data_set_is_streamed_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    rows: list[dict[str, object]] = [{"text": "abc"}, {"text": " "}, {"text": "defghi"}]
    monkeypatch.setitem(sys.modules, "datasets", fake_datasets(rows, asked))
    assert read_texts(["datasets:org/set@raw:test"]) == "abc\n\ndefghi"
    monkeypatch.setattr(texts, "DATASET_CHARACTERS", 7)
    assert read_texts(["datasets:org/set"]) == "abc\n\nde"
    assert asked == [("org/set", "raw", "test", True), ("org/set", None, "train", True)]


def test_data_sets_without_texts_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", fake_datasets([{"body": "x", "id": 1}], []))
    with pytest.raises(RefusedInput, match=r"'datasets:s' has no column \"text\"; it has body, id"):
        read_texts(["datasets:s"])
    with pytest.raises(RefusedInput, match="'datasets:absent' cannot be loaded: no such set"):
        read_texts(["datasets:absent"])
    with pytest.raises(RefusedInput, match="names no data set"):
        read_texts(["datasets:"])


def test_a_data_set_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingPackage, match=r"'datasets:x' .*pip install datasets"):
        read_texts(["datasets:x"])


def test_the_default_text_is_long_english_and_not_what_models_are_judged_by() -> None:
    text = default_text()
    assert len(text) > 300_000
    assert text == default_text()
    words = text.split()
    assert words.count("the") > 0.03 * len(words)
    judged = evaluation_text()
    pieces = [judged[at : at + 60] for at in range(0, len(judged) - 60, 5000)]
    assert not any(piece in text for piece in pieces)
