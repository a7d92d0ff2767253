"""``fmtc judge``, ``compare`` and ``report``: how good a checkpoint is, and better than what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .errors import json_option

if TYPE_CHECKING:
    from ..runtime.judge.compare import Comparison
    from ..runtime.judge.judgement import Judgement
    from ..runtime.judge.judging import Reference

Command = Callable[..., None]


def _text_options(command: Command) -> Command:
    """The options of everything that reads a text."""
    for option in reversed(
        (
            click.option(
                "--text",
                "texts",
                multiple=True,
                metavar="FILE",
                help="What the models read; may be given again.  [default: a built-in text]",
            ),
            click.option("--context", default=512, show_default=True, help="Tokens a window."),
            click.option(
                "--tokens", default=16384, show_default=True, help="Tokens of the text, at most."
            ),
            click.option(
                "--calibration",
                type=click.Path(path_type=Path, dir_okay=False),
                metavar="FILE",
                help="Whose channel norms weigh.  [default: that of the run, if it is there]",
            ),
            click.option(
                "--run",
                "how",
                type=click.Choice(["dequantized", "packed"]),
                default="dequantized",
                show_default=True,
                help="How the quantized model is run.",
            ),
            click.option(
                "--on-calibration-text",
                is_flag=True,
                help="Take a text that the checkpoint was calibrated on.",
            ),
            click.option("--fresh", is_flag=True, help="Measure again what is remembered."),
        )
    ):
        command = option(command)
    return command


@click.command()
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT")
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    required=True,
    metavar="MODEL",
    help="The model that OUT was made from.",
)
@_text_options
@json_option
def judge(out: Path, reference: Path, fresh: bool, as_json: bool, **options: Any) -> None:
    """Measure a checkpoint against the model that it was made from.

    On text: perplexity of both, KL divergence and expected acceptance rate (EAR), with 95 %
    intervals over windows. On weights, decoded from the written file: ACos, MSE, NMSE and wMSE,
    with intervals over matrices. The outcome is kept in OUT.run/judge.json, and taken from there
    when the very same is asked again.
    """
    from ..runtime.checkpoint import Checkpoint
    from . import console

    Checkpoint(out)
    with console.steps() as step, _reference(reference, options, step) as opened:
        judged = opened.judge(out, fresh=fresh)
    if as_json:
        console.json_out(judged.values())
    else:
        _show(judged)


def _reference(model: Path, options: dict[str, Any], step: Any, **more: Any) -> Reference:
    """The opened reference that the options of a command speak of."""
    from ..runtime.judge.judging import Reference

    texts = options["texts"]
    text, calibration = None, None
    if texts:
        from ..runtime.calibration.texts import read_texts

        text = read_texts(texts)
    if options["calibration"] is not None:
        from ..runtime.calibration import Calibration

        calibration = Calibration.load(options["calibration"])
    return Reference(
        model,
        text,
        text_name=", ".join(Path(name).name for name in texts),
        context=options["context"],
        tokens=options["tokens"],
        calibration=calibration,
        run=options["how"],
        on_calibration_text=options["on_calibration_text"],
        progress=step,
        **more,
    )


def _show(judged: Judgement) -> None:
    from ..runtime.judge.wording import FIGURES, over, value_and_span
    from . import console

    click.echo(f"{judged.name}: {judged.bpw:.4f} bits per weight, {judged.weights:,} weights")
    if judged.outputs is not None:
        windows, context = len(judged.outputs.windows), judged.outputs.context
        click.echo(f"on {judged.text}: {windows} windows of {context} tokens")
    rows = []
    for name, found in judged.figures.items():
        value, span = value_and_span(found)
        rows.append(
            {"figure": FIGURES[name], "value": value, "95 % interval": span, "over": over(name)}
        )
    console.table(rows)
    for line in (judged.missing, *judged.notes):
        if line:
            click.echo(f"note: {line}")


# -- compare ---------------------------------------------------------------------------


@click.command()
@click.argument("subjects", nargs=-1, required=True, metavar="OUT|FORMAT|RECIPE...")
@click.option("--on", "data", default="gaussian", show_default=True, metavar="gaussian|MODEL")
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    metavar="MODEL",
    help="Judge on this model, from written checkpoints.",
)
@_text_options
@click.option(
    "--calibrate-on",
    multiple=True,
    metavar="FILE",
    help="The text that recipes are calibrated on; may be given again.",
)
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep the checkpoints of formats there.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw errors against bits per weight, as .svg or .png.",
)
@json_option
def compare(
    subjects: tuple[str, ...],
    data: str,
    reference: Path | None,
    plot: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Put formats, recipes and checkpoints side by side.

    Without --reference formats are compared by bits per weight and error on Gaussian data or,
    with --on, a model's weights. With it, checkpoints are judged on the model (see `fmtc judge`)
    and formats and recipes are quantized into checkpoints first; differences to the first are
    paired by window, and said to be resolved only where their interval leaves 0 out.
    """
    if reference is None:
        _compare_formats(subjects, data, plot, as_json=as_json)
        return
    if data != "gaussian":
        raise click.UsageError("--on is for formats alone; with --reference leave it out")
    from ..runtime.judge import compare as comparing
    from . import console

    if plot is not None:
        _check_plot(plot)
    calibrated = options["calibrate_on"]
    text = None
    if calibrated:
        from ..runtime.calibration.texts import read_texts

        text = read_texts(calibrated)
    with (
        console.steps() as step,
        _reference(reference, options, step, room=options["work"]) as opened,
    ):
        found = comparing.compare_on_model(
            subjects,
            opened,
            work=options["work"],
            calibration_text=text,
            fresh=options["fresh"],
            progress=step,
        )
    if as_json:
        console.json_out(found.values())
    else:
        _show_comparison(found)
    if plot is not None:
        from ..runtime.judge.drawings import draw_comparison

        draw_comparison(found, plot)


def _check_plot(plot: Path) -> None:
    from ..runtime.judge.drawings import KINDS, package

    if plot.suffix.lower() not in KINDS:
        raise click.BadParameter(f"'{plot}' ends in none of .svg, .png", param_hint="--plot")
    package()


def _compare_formats(
    names: tuple[str, ...], data: str, plot: Path | None, *, as_json: bool
) -> None:
    from ..runtime.format import load
    from ..runtime.judge.compare import compare_formats, is_checkpoint
    from . import console

    written = [name for name in names if is_checkpoint(name)]
    if written or plot is not None:
        what = f"'{written[0]}' is a checkpoint" if written else "a drawing needs judgements"
        raise click.UsageError(f"{what}: give the model as well, with --reference MODEL")
    values = [load(name) for name in names]
    with console.steps() as step:
        rows = compare_formats(values, data, progress=step)
    console.table(rows, as_json=as_json)


def _show_comparison(found: Comparison) -> None:
    from ..runtime.judge.wording import with_reach
    from . import console

    first = found.judgements[0]
    if first.outputs is not None:
        windows, context = len(first.outputs.windows), first.outputs.context
        reference = with_reach(first.figures["reference_perplexity"])
        click.echo(
            f"{Path(first.reference).name} on {first.text}: {windows} windows of {context} "
            f"tokens; unquantized perplexity {reference}"
        )
    front = found.pareto()
    columns = {"ppl": "perplexity", "delta nll": "delta_nll", "KL": "kl", "EAR": "ear"}
    rows = []
    for label, judged, on_front in zip(found.labels, found.judgements, front, strict=True):
        row: dict[str, Any] = {"name": label, "bpw": f"{judged.bpw:.4f}"}
        for title, name in {"ACos": "acos", "NMSE": "nmse", **columns}.items():
            row[title] = with_reach(judged.figures[name]) if name in judged.figures else None
        row["Pareto"] = "*" if on_front else ""
        rows.append(row)
    console.table(rows)
    click.echo(f"+- 95 %; *: none has fewer bits and less {found.measure.upper()}")
    if found.with_outputs and len(found.labels) > 1:
        _show_differences(found)
    said = dict.fromkeys(
        line for judged in found.judgements for line in (judged.missing, *judged.notes) if line
    )
    for line in said:
        click.echo(f"note: {line}")


def _show_differences(found: Comparison) -> None:
    from ..runtime.judge.wording import with_reach
    from . import console

    click.echo(f"\nminus {found.labels[0]}, paired by window:")
    rows = []
    for other in range(1, len(found.labels)):
        difference = found.difference(other, 0)
        row: dict[str, Any] = {"name": found.labels[other]}
        for title, name in {"delta nll": "delta_nll", "KL": "kl", "EAR": "ear"}.items():
            row[title] = with_reach(difference.figures[name])
        row["resolved"] = (
            ", ".join(
                title
                for title, name in {"nll": "delta_nll", "KL": "kl", "EAR": "ear"}.items()
                if difference.figures[name].resolved
            )
            or "nothing"
        )
        rows.append(row)
    console.table(rows)


# -- report ----------------------------------------------------------------------------


@click.command()
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT")
def report(out: Path) -> None:
    """Write OUT.run/report.html: one page about a checkpoint, to be read without a network.

    It shows the plan, each unit's error, bits, time and memory, plots, the judgement if
    `fmtc judge` made one, and where everything comes from. What is missing, it says.
    """
    from ..runtime.judge.report import write_report

    click.echo(str(write_report(out)))
