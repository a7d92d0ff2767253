"""``fmtc export``, ``fmtc convert`` and ``fmtc rotate``: models in other file formats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..runtime.export import Exported

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
_MODEL = click.Path(path_type=Path, exists=True)
_DTYPES = ("bfloat16", "float16", "float32")


@click.command()
@click.argument("checkpoint", type=_FOLDER, metavar="OUT")
@click.option(
    "--to",
    "target",
    type=click.Choice(["compressed-tensors", "gguf", "bf16"]),
    required=True,
    help="What to write: a folder, and for gguf a file.",
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, metavar="DEST", help="Where."
)
@click.option(
    "--dtype",
    type=click.Choice(_DTYPES),
    help="Of what is not packed.  [default: bfloat16; float32 with integers alone]",
)
@click.option("--mixed", is_flag=True, help="Write matrices that DEST has no type for decoded.")
@_JSON
def export(
    checkpoint: Path, target: str, out: Path, dtype: str | None, mixed: bool, as_json: bool
) -> None:
    """Write a checkpoint for other programs.

    OUT is a folder that `fmtc quantize` wrote. Nothing is quantized again: codes and scales are
    copied, read back, and decoded by the other format's own library to compare.
    """
    from ..runtime.export import export as write
    from . import console

    with console.steps() as step:
        done = write(checkpoint, out, target, dtype=dtype, mixed=mixed, progress=step)
    console.table([_row(done)], as_json=as_json)
    if not as_json:
        for note in done.notes:
            click.echo(f"note: {note}")


def _row(done: Exported) -> dict[str, object]:
    return {
        "to": done.to,
        "packed matrices": len(done.packed),
        "decoded matrices": len(done.plain),
        "dtype": done.dtype,
        "elements that differ": done.differing,
        "by at most": done.largest,
        "out": str(done.path),
    }


@click.command()
@click.argument("model", type=_MODEL, metavar="MODEL.gguf")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, metavar="FOLDER", help="Where."
)
@_JSON
def convert(model: Path, out: Path, as_json: bool) -> None:
    """Write a GGUF model as a Hugging Face folder: safetensors, config and tokenizer.

    Weights are dequantized to float32, which holds every value that they decode to.
    """
    from ..runtime.models.convert import to_folder
    from . import console

    with console.steps() as step:
        folder = to_folder(model, out, lambda done, total: step("reading", done, total))
    console.table([{"model": model.name, "out": str(folder)}], as_json=as_json)


@click.command()
@click.argument("model", type=_MODEL, metavar="MODEL")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, metavar="FOLDER", help="Where."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the rotation.")
@click.option(
    "--keep",
    default="auto",
    show_default=True,
    metavar="auto|none|LIST",
    help="Channels to leave alone, such as 17,247; auto: those that are far larger than others.",
)
@click.option(
    "--dtype",
    type=click.Choice(_DTYPES),
    default="float32",
    show_default=True,
    help="Of the weights that are written.",
)
@_JSON
def rotate(model: Path, out: Path, seed: int, keep: str, dtype: str, as_json: bool) -> None:
    """Rotate a model's weights without changing what it computes.

    MODEL is a Hugging Face folder or a .gguf file. Weights that lie on a grid already, as those of
    a GGUF file do, say nothing of a format that they are quantized to; rotated ones do. The logits
    before and after are compared on a text.
    """
    from ..runtime.models.convert import rotate_folder
    from . import console

    with console.steps() as step:
        done = rotate_folder(
            model,
            out,
            seed,
            _channels(keep),
            dtype=dtype,
            progress=lambda layer, total: step("rotating", layer, total),
        )
    row = {
        "kept channels": ",".join(map(str, done.kept)) or "none",
        "logits differ by": done.difference,
        "out": str(done.folder),
    }
    console.table([row], as_json=as_json)


def _channels(keep: str) -> Sequence[int] | str:
    if keep in ("auto", "none"):
        return keep
    parts = keep.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise click.BadParameter(
            f"'{keep}' is neither auto, none nor numbers such as 17,247", param_hint="--keep"
        )
    return [int(part) for part in parts]
