from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fmtc import CorruptFile, RefusedInput
from fmtc.runtime.calibration import Calibration, calibrate, stream
from model_tools import TEXT, tiny_llama

LAYERS = 3
RUN = {"tokens": 200, "context": 40, "hessians": True}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama"), layers=LAYERS)


@pytest.fixture(scope="module")
def unbroken(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return saved(calibrate(llama, TEXT, **RUN), tmp_path_factory.mktemp("unbroken") / "file")


def saved(calibration: Calibration, file: Path) -> bytes:
    calibration.save(file)
    return file.read_bytes()


class Stopped(BaseException):
    """Ends a run like nothing that it could catch and mend."""


def stop_after(layers: int) -> Callable[[str, int, int], None]:
    def progress(what: str, done: int, total: int) -> None:
        if done == layers:
            raise Stopped

    return progress


def stopped(llama: Path, work: Path, layers: int) -> Path:
    with pytest.raises(Stopped):
        calibrate(llama, TEXT, work=work, progress=stop_after(layers), **RUN)
    return work


def finish(llama: Path, work: Path) -> tuple[bytes, list[int]]:
    """The bytes of the resumed calibration, and the layers that were done at each step."""
    steps: list[int] = []

    def note(what: str, done: int, total: int) -> None:
        steps.append(done)

    found = calibrate(llama, TEXT, work=work, progress=note, **RUN)
    return saved(found, work.with_name("file")), steps


@pytest.mark.parametrize("layers", range(LAYERS + 1))
def test_a_run_that_ended_after_any_layer_goes_on_from_there(
    llama: Path, unbroken: bytes, tmp_path: Path, layers: int
) -> None:
    work = stopped(llama, tmp_path / "work", layers)
    octets, steps = finish(llama, work)
    assert octets == unbroken
    assert steps == list(range(layers, LAYERS + 1))


def test_statistics_without_their_hidden_states_are_made_again(
    llama: Path, unbroken: bytes, tmp_path: Path
) -> None:
    work = stopped(llama, tmp_path / "work", 1)
    hidden = (work / "hidden.safetensors").read_bytes()
    stopped(llama, work, 2)
    (work / "hidden.safetensors").write_bytes(hidden)
    (work / ".hidden.safetensors.00aa").write_bytes(b"half")
    (work / ".layer-0002.safetensors.00aa.part").write_bytes(b"half")
    octets, steps = finish(llama, work)
    assert octets == unbroken
    assert steps[0] == 1
    assert not list(work.glob(".*"))


def test_a_finished_run_is_only_read(
    llama: Path, unbroken: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = stopped(llama, tmp_path / "work", LAYERS)
    monkeypatch.setattr(stream, "run_layer", None)
    assert finish(llama, work) == (unbroken, [LAYERS])


KILLED = """
import os, signal, sys
from pathlib import Path
from fmtc.runtime.calibration import calibrate

when, model, work = sys.argv[1:]
replace, left = Path.replace, [int(when.strip("ab"))]

def renamed(self, target):
    left[0] -= 1
    if not left[0] and when.endswith("b"):  # before the file has its name
        os.kill(os.getpid(), signal.SIGKILL)
    done = replace(self, target)
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return done

Path.replace = renamed
text = Path(model, "text.txt").read_text()
calibrate(model, text, tokens=200, context=40, hessians=True, work=Path(work))
"""


def kill(llama: Path, work: Path, when: str) -> None:
    """Run in a process of its own that is killed at its n-th file, before or after its name."""
    (llama / "text.txt").write_text(TEXT)
    arguments = [sys.executable, "-c", KILLED, when, str(llama), str(work)]
    done = subprocess.run(arguments, capture_output=True, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


def test_a_killed_process_loses_no_finished_layer(
    llama: Path, unbroken: bytes, tmp_path: Path
) -> None:
    kill(llama, tmp_path / "work", "5b")  # run.json, then a layer and the hidden states each
    octets, steps = finish(llama, tmp_path / "work")
    assert octets == unbroken
    assert steps[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize("when", [f"{n}{side}" for n in range(1, 7) for side in "ab"])
def test_a_process_killed_at_any_file_goes_on(
    llama: Path, unbroken: bytes, tmp_path: Path, when: str
) -> None:
    kill(llama, tmp_path / "work", when)
    octets, _ = finish(llama, tmp_path / "work")
    assert octets == unbroken


@pytest.mark.slow
def test_a_process_killed_at_random_moments_again_and_again_ends_with_the_same_bytes(
    llama: Path, unbroken: bytes, tmp_path: Path
) -> None:
    (llama / "text.txt").write_text(TEXT)
    work, killed = tmp_path / "work", 0
    for number in range(30):
        arguments = [sys.executable, "-c", KILLED, "99a", str(llama), str(work)]
        process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=2.5 + 0.37 * (number % 11))
        except subprocess.TimeoutExpired:
            process.kill()
            killed += 1
        if process.wait() == 0:
            break
    assert killed
    octets, _ = finish(llama, work)
    assert octets == unbroken


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"text": TEXT + "more"}, "text "),
        ({"tokens": 160}, "tokens was 200, is 160"),
        ({"context": 50}, "context was 40, is 50"),
        ({"hessians": False}, "hessians was True, is False"),
    ],
    ids=["text", "tokens", "context", "hessians"],
)
def test_other_settings_do_not_go_on_where_these_ended(
    llama: Path, tmp_path: Path, change: dict[str, object], part: str
) -> None:
    work = stopped(llama, tmp_path / "work", 1)
    before = sorted((f.name, f.stat().st_mtime_ns) for f in work.iterdir())
    settings: dict[str, object] = {"text": TEXT, **RUN} | change
    text = str(settings.pop("text"))
    with pytest.raises(RefusedInput, match=rf"'.*work' is of another calibration: .*{part}"):
        calibrate(llama, text, work=work, **settings)
    assert sorted((f.name, f.stat().st_mtime_ns) for f in work.iterdir()) == before


def test_another_model_does_not_go_on_where_this_one_ended(llama: Path, tmp_path: Path) -> None:
    work = stopped(llama, tmp_path / "work", 1)
    other = tiny_llama(tmp_path / "other", layers=LAYERS, seed=1)
    with pytest.raises(RefusedInput, match=r"calibration: model's weights \(SHA-256\) was"):
        calibrate(other, TEXT, work=work, **RUN)
    turned = Path(shutil.copytree(llama, tmp_path / "turned"))
    config = json.loads((turned / "config.json").read_text())
    (turned / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    with pytest.raises(RefusedInput, match=r"calibration: model's config.json \(SHA-256\) was"):
        calibrate(turned, TEXT, work=work, **RUN)


@pytest.mark.parametrize("name", ["hidden.safetensors", "layer-0000.safetensors", "run.json"])
def test_damaged_files_of_a_run_are_refused_by_name(llama: Path, tmp_path: Path, name: str) -> None:
    work = stopped(llama, tmp_path / "work", 2)
    file = work / name
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-70] + b"#" + whole[-69:]):
        file.write_bytes(damaged)
        with pytest.raises((CorruptFile, RefusedInput), match=rf"'.*{name}'|another calibration"):
            calibrate(llama, TEXT, work=work, **RUN)


def test_a_folder_with_other_files_is_left_alone(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / ".layer-0001.safetensors.00aa").write_text("mine, too")
    with pytest.raises(RefusedInput, match="holds files that are of no calibration"):
        calibrate(llama, TEXT, work=tmp_path, **RUN)
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        ".layer-0001.safetensors.00aa",
        "mine.txt",
    ]


def test_a_calibration_without_a_folder_leaves_nothing(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = calibrate(llama, TEXT, **RUN)
    assert [*tmp_path.iterdir()]
    assert found.hessians[next(iter(found.norms))].shape == (128, 128)
    del found
    assert not [*tmp_path.iterdir()]
    with pytest.raises(Stopped):
        calibrate(llama, TEXT, progress=stop_after(1), **RUN)
    assert not [*tmp_path.iterdir()]
    calibrate(llama, TEXT, tokens=80, context=40)
    assert not [*tmp_path.iterdir()]


MEASURED = """
import ctypes, gc, json, re, sys
from pathlib import Path
from fmtc.runtime.calibration import calibrate

def status(key):
    return int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

small, model = sys.argv[1:3]
settings = json.loads(sys.argv[3])
text = Path(small, "text.txt").read_text()
calibrate(small, text, tokens=256, context=64, hessians=True)  # loads all code that is needed
gc.collect()
ctypes.CDLL(None).malloc_trim(0)  # what was freed before is none of ours
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = status("VmRSS")
calibrate(model, text, **settings)
print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("hessians", [False, True])
def test_memory_has_the_weights_of_one_layer(
    llama: Path, tmp_path: Path, dtype: str, hessians: bool
) -> None:
    import torch
    from calibration_tools import add_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=40_000,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    layer = 4 * sum(p.numel() for p in model.model.layers[0].parameters())
    total = 4 * sum(p.numel() for p in model.parameters())
    model.save_pretrained(tmp_path / "big")
    del model
    add_tokenizer(tmp_path / "big")
    (llama / "text.txt").write_text(TEXT)
    windows, context = 4, 128
    settings = {"tokens": windows * context, "context": context, "hessians": hessians, "threads": 2}
    arguments = [sys.executable, "-c", MEASURED, str(llama), str(tmp_path / "big")]
    done = subprocess.run(
        [*arguments, json.dumps(settings)], capture_output=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    peak = int(done.stdout)
    # Hidden states of all windows, and the widest rows of the two that are in a layer, thrice.
    activations = 4 * windows * context * 1024 + 2 * 4 * context * 3 * 3072
    print(f"layer {layer >> 20} MiB, model {total >> 20} MiB, peak {peak >> 20} MiB")
    assert 45e6 < layer < 60e6 < total / 8
    assert peak < 1.5 * layer + activations
