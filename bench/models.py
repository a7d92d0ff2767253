"""``python -m fmtc.bench.models``: SOP beside formats of the same size, on a real model.

SmolLM2-135M is written as a Hugging Face folder, rotated off the int4 grid that it is published
on. The peers are rounded to nearest; then one run gets the bits that they take on disk, and one
gets 4.7 a weight. All are judged from the written files on the same text, window by window.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

from fmtc.runtime.checkpoint import Checkpoint
from fmtc.runtime.judge.compare import Comparison, compare_on_model
from fmtc.runtime.judge.intervals import Interval
from fmtc.runtime.judge.judging import Reference
from fmtc.runtime.models import find_demo_model
from fmtc.runtime.models.convert import rotate_folder, to_folder
from fmtc.runtime.plan.budget import BudgetTooSmall
from fmtc.runtime.runs.recipe import Recipe
from fmtc.runtime.runs.run import quantize_model

from .machine import processor
from .tables import replace_section

RESULTS = Path(__file__).with_name("RESULTS.md")
SECTION = "bench-models"

#: 4-bit formats of 4.5 bits a weight, without a search.
PEERS = ("nvfp4", "four_six", "if4", "nf4", "po2_nf4")
WANTED = "4.7"

HEAD = """\
SmolLM2-135M-Instruct, rotated ({weights:,} linear weights), judged from the written files on
{tokens:,} tokens of the King James Bible against the unquantized model, whose perplexity is
{perplexity:.3f}. {day}, {machine}, 2 cores; `make bench-models ARGS=--write`.
Intervals are 95 % over windows of 512 tokens; bpw is all bytes on disk * 8 / weights. SOP is
calibrated on Python's help texts; {peers} are rounded to nearest.
"""


@dataclass(frozen=True)
class Run:
    """A run that was made: its folder, and how long it took."""

    out: Path
    seconds: float


def model_folder(folder: Path) -> Path:
    """The rotated model, made unless it is there."""
    published, rotated = folder / "published", folder / "rotated"
    if not rotated.exists():
        if not published.exists():
            to_folder(find_demo_model(), published)
        rotate_folder(published, rotated)
    return rotated


def quantized(model: Path, out: Path, bpw: Fraction) -> Run:
    """A searched plan within a budget, or the least one, with all else as it is by default."""
    start = time.perf_counter()
    try:
        quantize_model(model, out, Recipe.of(bpw=bpw), fresh=True)
    except BudgetTooSmall as error:
        if error.least is None:
            raise
        quantize_model(model, out, Recipe.of(bpw=error.least))  # from the same profiles
    return Run(out, time.perf_counter() - start)


def compared(model: Path, folder: Path, tokens: int) -> tuple[Comparison, list[Run]]:
    """Peers and runs on a model, judged on so many tokens; checkpoints stay below ``folder``."""
    with Reference(model, tokens=tokens, room=folder) as reference:
        peers = compare_on_model(PEERS, reference, work=folder / "peers")
        octets = max(judged.disk_bytes for judged in peers.judgements)
        same = Fraction(8 * octets, peers.judgements[0].weights)
        runs = [
            quantized(model, folder / "sop-same", same),
            quantized(model, folder / "sop-4.7", Fraction(WANTED)),
        ]
        subjects = [*(Path(run.out) for run in runs)]
        ours = compare_on_model(subjects, reference)
    labels = (*peers.labels, "SOP, the same bits", f"SOP, --bpw {WANTED}")
    return Comparison(labels, (*peers.judgements, *ours.judgements)), runs


def shown(interval: Interval, digits: int = 4) -> str:
    """A figure with its interval, for a table."""
    half = (interval.high - interval.low) / 2
    return f"{interval.value:.{digits}f} +- {half:.{digits}f}"


def markdown(found: Comparison, runs: list[Run]) -> str:
    """The section of RESULTS.md."""
    first = found.judgements[0]
    assert first.outputs is not None
    lines = [
        HEAD.format(
            weights=first.weights,
            tokens=first.outputs.context * len(first.outputs.windows),
            perplexity=first.outputs.reference_perplexity.value,
            day=datetime.now(UTC).date().isoformat(),
            machine=processor(),
            peers=", ".join(PEERS),
        ),
        "| recipe | bpw | ACos gap, ppm (c = 1) | NMSE | perplexity | KL | EAR |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for label, judged in zip(found.labels, found.judgements, strict=True):
        outputs = judged.outputs
        assert outputs is not None
        cells = (
            label,
            f"{judged.bpw:.4f}",
            f"{1e6 * (1 - judged.errors.acos):,.0f}",
            f"{judged.errors.nmse:.6f}",
            shown(outputs.perplexity, 3),
            shown(outputs.kl),
            shown(outputs.ear),
        )
        lines.append("| " + " | ".join(cells) + " |")
    count = len(found.labels)
    lines += ["", "Paired by window, SOP with the same bits minus each (KL, EAR):", ""]
    for other in range(len(PEERS)):
        told = found.difference(count - 2, other).figures
        kl, ear = told["kl"], told["ear"]
        lines.append(f"* {found.labels[other]}: {shown(kl)}, {shown(ear)}")
    seconds = " and ".join(f"{run.seconds:.0f} s" for run in runs)
    plans = [Checkpoint(run.out) for run in runs]
    formats = " and ".join(str(len(plan.formats)) for plan in plans)
    lines += ["", f"The two runs took {seconds} and hold {formats} different formats."]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and with ``--write`` put the table into RESULTS.md."""
    parser = argparse.ArgumentParser(prog="python -m fmtc.bench.models", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build") / "bench-models")
    parser.add_argument("--tokens", type=int, default=14336, help="of the text, at most")
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    chosen = parser.parse_args()
    found = compared(model_folder(chosen.folder), chosen.folder, chosen.tokens)
    text = markdown(*found)
    print(text)
    if chosen.write:
        RESULTS.write_text(replace_section(RESULTS.read_text("utf-8"), SECTION, text), "utf-8")


if __name__ == "__main__":
    main()
