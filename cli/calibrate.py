"""The command ``fmtc calibrate``."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import click

from .errors import json_option


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--text",
    "texts",
    multiple=True,
    metavar="FILE",
    help="A text, a folder of texts, or datasets:NAME; may be repeated.  "
    "[default: Python's own help texts]",
)
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where the calibration goes.",
)
@click.option("--tokens", type=click.IntRange(2), default=8192, show_default=True, metavar="N")
@click.option(
    "--context",
    type=click.IntRange(2),
    default=512,
    show_default=True,
    metavar="N",
    help="Tokens a window.",
)
@click.option("--hessians", is_flag=True, help="Also E[x x^T] of every input; the file is large.")
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep what is finished there, and leave it.  [default: FILE.work, until FILE is written]",
)
@json_option
def calibrate(
    model: Path,
    texts: tuple[str, ...],
    out: Path,
    tokens: int,
    context: int,
    hessians: bool,
    work: Path | None,
    as_json: bool,
) -> None:
    """Run text through a model and keep the norms of what its matrices are multiplied with.

    MODEL is a Hugging Face folder. One decoder layer's weights are in memory at a time. A run that
    was killed goes on where it was when the same command is given again.
    """
    from ..runtime.calibration import calibrate as run
    from ..runtime.calibration import default_text, read_texts
    from . import console

    text = read_texts(texts) if texts else default_text()
    place = out.with_name(f"{out.name}.work") if work is None else work
    start = time.perf_counter()
    with console.steps() as step:
        found = run(
            model,
            text,
            tokens=tokens,
            context=context,
            hessians=hessians,
            work=place,
            progress=step,
        )
    found.save(out)
    if work is None:
        shutil.rmtree(place)
    for name in found.unseen:
        click.echo(f"warning: no token was sent to {name}; its norms are zero", err=True)
    row = {
        "file": str(out),
        "matrices": len(found.norms),
        "hessians": len(found.hessians),
        "tokens": found.tokens,
        "context": found.context,
        "text": found.text_sha256[:16],
        "bytes": out.stat().st_size,
        "seconds": round(time.perf_counter() - start, 1),
    }
    if as_json:
        unseen = list(found.unseen)
        extra = {"text": found.text_sha256, "fingerprint": found.fingerprint, "unseen": unseen}
        console.json_out(row | extra)
    else:
        console.table([row])
