"""Models, runs and kills for the tests of runs."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from fmtc.runtime.runs.log import Log
from fmtc.runtime.runs.recipe import Recipe
from fmtc.runtime.runs.run import Result, quantize_model
from safetensors.torch import save_file

#: Quick to profile: shipped formats that are compiled once, no search.
RECIPE = {
    "format_name": "nf4",
    "bpw": "8.5",
    "promotions": ("e2m3_ue4m4", "int8"),
    "corrections": ("Wr",),
}
LAYERS = 3
UNITS = 4 * LAYERS


def write_model(file: Path, *, layers: int = LAYERS, seed: int = 0, width: int = 64) -> Path:
    """A safetensors file with the matrices of a small Llama, in bfloat16."""
    maker = torch.Generator().manual_seed(seed)
    shapes = {
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (width // 2, width),
        "self_attn.v_proj": (width // 2, width),
        "self_attn.o_proj": (width, width),
        "mlp.gate_proj": (2 * width, width),
        "mlp.up_proj": (2 * width, width),
        "mlp.down_proj": (width, 2 * width),
    }
    tensors = {"model.embed_tokens.weight": torch.randn(16, width, generator=maker)}
    for layer in range(layers):
        for name, shape in shapes.items():
            values = torch.randn(shape, generator=maker) * (layer + 1)
            tensors[f"model.layers.{layer}.{name}.weight"] = values.bfloat16()
    tensors["model.norm.weight"] = torch.ones(width)
    save_file(tensors, file)
    return file


def recipe(**changes: Any) -> Recipe:
    said = {**RECIPE, **changes}
    return Recipe.of(said.pop("format_name"), **said)


def run(model: Path, out: Path, wanted: Recipe | None = None, **options: Any) -> Result:
    options = {"engine": "here", "norms": False, **options}
    return quantize_model(model, out, wanted or recipe(), **options)


def digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of all files of a folder."""
    total = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        total.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return total.hexdigest()


def carried_out(out: Path) -> list[str]:
    """The tasks that were carried out for a checkpoint, over all sessions."""
    lines = Log(out.with_name(f"{out.name}.run") / "tasks.jsonl").lines()
    return [line["task"] for line in lines if "task" in line]


def start(model: Path, out: Path, **options: Any) -> multiprocessing.process.BaseProcess:
    """A run in a process of its own, which can be killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fmtc.runtime.runs.preload"])
    process = context.Process(target=_quietly, args=(model, out), kwargs=options)
    process.start()
    return process


def _quietly(model: Path, out: Path, **options: Any) -> None:
    os.setsid()
    run(model, out, **options)


def kill_after(process: multiprocessing.process.BaseProcess, seconds: float) -> bool:
    """Kill a run with its workers, unless it comes to its end before; whether it was killed."""
    process.join(seconds)
    if process.exitcode is not None:
        assert process.exitcode == 0
        return False
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return True


def wait_for(what: Any, seconds: float = 60) -> Any:
    """The first true value that ``what()`` gives."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.005)
    raise TimeoutError
