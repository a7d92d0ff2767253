"""``python -m fmtc.demo``: the main job on real input.

SmolLM2-135M is loaded from its GGUF file and rotated (its raw weights already lie on an int4
grid, which would make any 4-bit result fake). Formats of each kind quantize all its linear weights
into real checkpoints, which are read back and evaluated; the last one has a grid that is learned
for every group of layers from its weights and from text. Then one format is built for every target
and its RTL is simulated.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import codegen
from ._version import __version__
from .cli import console
from .runtime.atomic import write_atomically
from .runtime.backend import BackendUnavailable
from .runtime.checkpoint import Checkpoint
from .runtime.checkpoint_writer import write_checkpoint
from .runtime.format import Format, load
from .runtime.grids.options import SearchOptions
from .runtime.models import (
    Perplexity,
    evaluation_text,
    find_demo_model,
    load_gguf_model,
    massive_channels,
    perplexity,
    rotate,
    set_linear_weights,
)
from .runtime.models.convert import save_folder
from .runtime.rtl.simulate import lint, simulate
from .runtime.runs.progress import Status
from .runtime.runs.recipe import Recipe
from .runtime.runs.run import quantize_model
from .runtime.sources import ModelSource, open_source

if TYPE_CHECKING:
    import torch

CONTEXT = 512
WINDOWS = 8
HARDWARE_FORMAT = "sop_pair"
#: NF4 and a grid learned for every fused group of layers, chosen by calibrated errors.
SEARCHED = "NF4|DD4, learned"
#: One of each kind, by bits per weight; any of `fmtc list` would do.
FORMATS = (
    "mxfp4",
    "q4_0",
    "nf4",
    "nvfp4",
    "four_six",
    "po2_nf4",
    "sop_pair",
    "e2m3_ue4m4",
)


def main() -> None:
    """Run the demo in ``build/demo`` and print its table."""
    start = time.perf_counter()
    try:
        run(Path("build") / "demo")
    except (OSError, ImportError, ValueError, BackendUnavailable) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    click.echo(f"the demo took {time.perf_counter() - start:.0f} s; its files are in build/demo")


def run(folder: Path) -> None:
    """Quantize, measure and build; everything is written below ``folder``."""
    path = find_demo_model()
    with _stage(f"loading {path.name}"):
        loaded = load_gguf_model(path)
    tokens = loaded.encode(evaluation_text())[: CONTEXT * WINDOWS]
    with _stage("rotating it (the function stays the same)"):
        # Mixing the few huge channels of the residual stream would spread rounding errors there.
        keep = massive_channels(loaded.model, tokens[:CONTEXT])
        rotated = rotate(loaded.model, keep=keep)
    fingerprint = _fingerprint(path, tokens)
    model = folder / f"rotated-{fingerprint[:16]}"
    if not model.exists():
        save_folder(rotated, loaded.tokenizer, model)
    models = {"none (as published)": loaded.model, "none (rotated)": rotated}
    known = _known(folder / "baseline.json", fingerprint)
    table, base = [], None
    for name, unquantized in models.items():
        base = known.get(name) or _evaluate(name, unquantized, tokens)
        known[name] = base
        table.append({"format": name, "bpw": None, "NMSE": None, **_columns(base, base)})
    _remember(folder / "baseline.json", fingerprint, known)
    source = open_source(model)
    weights = 0
    for name in FORMATS:
        row, weights = _quantize(folder / name, source, load(name), rotated, tokens, base)
        table.append(row)
    table.append(_search(folder / "searched", source, rotated, tokens, base))
    click.echo(
        f"\n{path.stem}: {weights:,} linear weights, perplexity over {len(tokens):,} tokens of "
        "the King James Bible"
    )
    console.table(table)
    write_atomically(folder / "results.json", json.dumps(table, indent=1).encode())
    _build(folder / f"{HARDWARE_FORMAT}-build", load(HARDWARE_FORMAT))


def _quantize(
    out: Path,
    source: ModelSource,
    fmt: Format,
    model: torch.nn.Module,
    tokens: Sequence[int],
    base: Perplexity | None,
) -> tuple[dict[str, Any], int]:
    """Write a checkpoint in one format, and measure what is read back from disk."""
    with _bar(f"{fmt.name}: quantizing") as step:
        checkpoint = write_checkpoint(source, fmt, out, progress=step)
    return _measured(fmt.name, checkpoint, source, model, tokens, base)


def _search(
    out: Path,
    source: ModelSource,
    model: torch.nn.Module,
    tokens: Sequence[int],
    base: Perplexity | None,
) -> dict[str, Any]:
    """Find a pair of grids for every group of layers, and measure what is read back from disk."""
    with _bar(f"{SEARCHED}: calibrating and searching") as step:
        told = step

        def show(status: Status) -> None:
            told("", int(1000 * status.fraction), 1000)

        recipe = Recipe.of("NF4|DD4^16sUE4M3", search=SearchOptions())
        made = quantize_model(source.path, out, recipe, progress=show).checkpoint
    return _measured(SEARCHED, made, source, model, tokens, base)[0]


def _measured(
    name: str,
    checkpoint: Checkpoint,
    source: ModelSource,
    model: torch.nn.Module,
    tokens: Sequence[int],
    base: Perplexity | None,
) -> tuple[dict[str, Any], int]:
    """The table's row, of the bytes on disk, and how many weights they are."""
    with _bar(f"{name}: reading back") as step:
        totals = checkpoint.totals(source, step)
        decoded = {key: checkpoint.tensor(key) for key in checkpoint.quantized_names}
    set_linear_weights(model, decoded)
    measured = _evaluate(name, model, tokens)
    row = {
        "format": name,
        "bpw": totals.bpw,
        "NMSE": totals.nmse,
        **_columns(measured, base or measured),
    }
    return row, totals.weights


def _columns(measured: Perplexity, base: Perplexity) -> dict[str, Any]:
    difference, error = measured.difference(base)
    return {
        "perplexity": round(measured.ppl, 3),
        "delta nll": round(difference, 4),
        "+-": round(error, 4),
    }


def _evaluate(name: str, model: torch.nn.Module, tokens: Sequence[int]) -> Perplexity:
    with _bar(f"{name}: perplexity") as step:
        return perplexity(
            model, tokens, CONTEXT, progress=lambda done, total: step("", done, total)
        )


def _fingerprint(path: Path, tokens: Sequence[int]) -> str:
    parts = [__version__.encode(), path.read_bytes(), json.dumps(list(tokens)).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _known(file: Path, fingerprint: str) -> dict[str, Perplexity]:
    """Baselines that an earlier run measured on the same model, text and version."""
    try:
        stated = json.loads(file.read_text())
        if stated["fingerprint"] != fingerprint:
            return {}
        rows = stated["rows"].items()
        known = {
            name: Perplexity(**{**row, "windows": tuple(row["windows"])}) for name, row in rows
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    click.echo("the perplexity before quantization is known from an earlier run")
    return known


def _remember(file: Path, fingerprint: str, known: dict[str, Perplexity]) -> None:
    rows = {name: asdict(row) for name, row in known.items()}
    write_atomically(file, json.dumps({"fingerprint": fingerprint, "rows": rows}).encode())


def _build(folder: Path, fmt: Format) -> None:
    with _stage(f"building {fmt.name} for {', '.join(codegen.TARGETS)}"):
        files = 0
        for target in codegen.TARGETS:
            for name, text in codegen.emit(fmt, target).items():
                write_atomically(folder / target / name, text.encode())
                files += 1
    click.echo(f"{files} files in {folder}")
    try:
        with _stage(f"linting and simulating the RTL of {fmt.name}"):
            clean = lint(fmt).passed
            report = simulate(fmt)
    except BackendUnavailable as reason:
        click.echo(f"RTL simulation skipped: {reason}")
        return
    for bench in report.benches:
        click.echo(f"  {bench.name}: {'PASS' if bench.passed else 'FAIL'}, {bench.vectors} vectors")
    if not (clean and report.passed):
        raise ValueError("the RTL does not lint, or differs from the golden vectors")


@contextmanager
def _stage(what: str) -> Iterator[None]:
    """Say what is being done, and how long it took."""
    start = time.perf_counter()
    click.echo(f"{what} ...", nl=False)
    try:
        yield
    finally:
        click.echo(f" {time.perf_counter() - start:.1f} s")


@contextmanager
def _bar(what: str) -> Iterator[Any]:
    """A progress bar on a terminal, and one line when the work is done."""
    start = time.perf_counter()
    with console.steps() as step:
        yield lambda _, done, total: step(what, done, total)
    click.echo(f"{what} {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
