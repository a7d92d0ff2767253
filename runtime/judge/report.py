"""One HTML page about a checkpoint: its plan, its errors, its run, its judgement. No network.

The page holds everything: style, script, drawings. What it shows is read from the checkpoint
and from the run's folder; parts that are missing are named, and the page is made without them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..._version import __version__
from ..atomic import write_atomically
from ..checkpoint import Checkpoint
from ..errors import CorruptFile, MissingPackage
from ..grids.metrics import Errors
from ..manifest import MANIFEST
from . import drawings, wording
from .judgement import Judgement, read_judgement, run_folder

#: The page's name in the run's folder.
FILE = "report.html"

#: Errors of the log and of the written file may differ by this share: sums are in another order.
_SAME = 1e-6


@dataclass(frozen=True, slots=True)
class Found:
    """What there is about a checkpoint.

    Attributes:
        checkpoint: the folder.
        judgement: of this very checkpoint; None: there is none.
        log: the line of each unit, by its name.
        tasks: what was carried out, in order.
        stages: (name, seconds) of what ended, in order.
        missing: what is not there, in sentences.
    """

    checkpoint: Checkpoint
    judgement: Judgement | None
    log: dict[str, dict[str, Any]]
    tasks: list[dict[str, Any]]
    stages: list[tuple[str, float]]
    missing: list[str]


def write_report(out: str | Path) -> Path:
    """Write ``OUT.run/report.html``, whole or not at all.

    Args:
        out: the checkpoint's folder.

    Returns:
        The page's path.

    Raises:
        CorruptFile: ``out`` is no checkpoint, or a damaged one.
    """
    path = run_folder(out) / FILE
    write_atomically(path, report_page(gather(out)).encode())
    return path


def gather(out: str | Path) -> Found:
    """Read all that the page shows; see `Found`."""
    checkpoint = Checkpoint(out)
    folder, missing = run_folder(out), []
    log = {str(line["unit"]): line for line in _lines(folder / "log.jsonl") if "unit" in line}
    if not log:
        missing.append("There is no log of a run: times, memory and units are not known.")
    said = list(_lines(folder / "tasks.jsonl"))
    tasks = [line for line in said if "unit" in line]
    stages = [(str(s["stage"]), float(s["seconds"])) for s in said if "stage" in s]
    judgement = _judgement(out, checkpoint, missing)
    return Found(checkpoint, judgement, log, tasks, stages, missing)


def _judgement(out: str | Path, checkpoint: Checkpoint, missing: list[str]) -> Judgement | None:
    try:
        judgement = read_judgement(out)
    except CorruptFile as error:
        missing.append(f"The judgement cannot be read: {error}.")
        return None
    if judgement is None:
        missing.append(
            "There is no judgement: `fmtc judge OUT --reference MODEL` measures perplexity, KL, "
            "EAR and the errors of weights."
        )
    elif judgement.subject.checkpoint != checkpoint.manifest_hash:
        missing.append(
            "The judgement that is there is of an earlier checkpoint and is left out: run "
            "`fmtc judge` again."
        )
        return None
    elif judgement.missing:
        missing.append(f"No model was run: {judgement.missing}.")
    return judgement


def _lines(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a log that is a JSON object."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            continue  # a run that was killed leaves half a line
        if isinstance(said, dict):
            found.append(said)
    return found


# -- units -----------------------------------------------------------------------------


def units_of(found: Found) -> list[dict[str, Any]]:
    """A row for each unit, or each matrix where no log says what the units were.

    Errors are those of the written file where it was judged, else those of the log. Bits per
    weight are those of the packed bytes, which are measured here.
    """
    checkpoint = found.checkpoint
    judged = {} if found.judgement is None else {m.name: m for m in found.judgement.matrices}
    packed = set(checkpoint.quantized_names)
    logged = {m for line in found.log.values() for m in line.get("members", ())}
    if found.log and logged == packed:
        groups = [(name, line["members"], line) for name, line in found.log.items()]
    else:
        groups = [(name, [name], {}) for name in checkpoint.quantized_names]
    spent = _spent(found.tasks)
    rows = []
    for name, members, line in groups:
        elements = sum(_elements(checkpoint.shape(member)) for member in members)
        octets = sum(checkpoint.octets(member) for member in members)
        known = [judged[member].errors for member in members if member in judged]
        errors = sum(known, Errors()) if len(known) == len(members) else None
        seconds, peak = spent.get(name, (line.get("seconds"), line.get("peak_bytes")))
        rows.append(
            {
                "name": name,
                "members": len(members),
                "elements": elements,
                "choice": line.get("choice") or checkpoint.format_of(members[0]).name,
                "atoms": " | ".join(line.get("atoms") or ()),
                "bpw": 8 * octets / elements if elements else 0.0,
                "acos": line.get("acos") if errors is None else errors.acos,
                "nmse": line.get("nmse") if errors is None else errors.nmse,
                "mse": line.get("mse") if errors is None else errors.mse,
                "seconds": seconds,
                "peak_bytes": peak,
            }
        )
    return sorted(rows, key=lambda row: _natural(row["name"]))


def _natural(name: str) -> list[tuple[int, str]]:
    """What sorts layer 2 before layer 10."""
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in re.split(r"(\d+)", name)]


def _elements(shape: Sequence[int]) -> int:
    count = 1
    for axis in shape:
        count *= axis
    return count


def _spent(tasks: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, int]]:
    """Unit -> seconds of all its tasks, and the most memory of one."""
    spent: dict[str, tuple[float, int]] = {}
    for task in tasks:
        before = spent.get(str(task["unit"]), (0.0, 0))
        time, peak = float(task.get("seconds") or 0.0), int(task.get("peak_bytes") or 0)
        spent[str(task["unit"])] = (before[0] + time, max(before[1], peak))
    return spent


def agreement(found: Found) -> str:
    """Whether the written file has the errors that the run said it packed; empty: not known."""
    judged = found.judgement
    if judged is None or not found.log:
        return ""
    errors = {m.name: m.errors for m in judged.matrices}
    checked, off = 0, []
    for name, line in found.log.items():
        members = line.get("members", ())
        if line.get("nmse") is None or not all(member in errors for member in members):
            continue
        now = sum((errors[member] for member in members), Errors()).nmse
        checked += 1
        if abs(now - line["nmse"]) > _SAME * max(now, line["nmse"]):
            off.append(name)
    if not checked:
        return ""
    if off:
        return f"The written file has other errors than the run packed, first in {off[0]}."
    return f"All {checked} units have on disk the errors that they were packed with."


# -- the page --------------------------------------------------------------------------


def report_page(found: Found) -> str:
    """The page's text."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    units, missing = units_of(found), list(found.missing)
    values = {
        "version": __version__,
        "name": found.checkpoint.folder.resolve().name,
        "cards": _cards(found, units),
        "figures": _figures(found.judgement),
        "judged_on": _judged_on(found.judgement),
        "notes": [] if found.judgement is None else list(found.judgement.notes),
        "agreement": agreement(found),
        "plots": _plots(units, missing),
        "units": [_shown(unit) for unit in units],
        "has_atoms": any(unit["atoms"] for unit in units),
        "errors_from": "the written file" if found.judgement else "the run's log",
        "stages": [{"name": n, "seconds": wording.seconds(s)} for n, s in found.stages],
        "sizes": _sizes(found.checkpoint),
        "provenance": _provenance(found),
        "formats": _formats(found.checkpoint),
        "missing": missing,
    }
    return environment.get_template("report.html.j2").render(values)


def _cards(found: Found, units: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The figures that a reader looks for first."""
    checkpoint, judged = found.checkpoint, found.judgement
    weights = sum(unit["elements"] for unit in units)
    budget = checkpoint.plan.get("recipe", {}).get("bpw")
    bpw = 8 * checkpoint.disk_bytes / weights if weights else 0.0
    of = f"of a budget of {_budget(budget)}" if budget is not None else "measured on the files"
    cards = [
        {"title": "bits per weight", "value": f"{bpw:.4f}", "note": of},
        {"title": "weights", "value": f"{weights:,}", "note": f"in {len(units)} units"},
    ]
    figures = {} if judged is None else judged.figures
    if "kl" in figures:
        before = figures["reference_perplexity"].value
        ppl = f"{before:.2f} → {figures['perplexity'].value:.2f}"
        loss = f"loss {wording.with_reach(figures['delta_nll'], '± ')}"
        cards += [
            {"title": "perplexity", "value": ppl, "note": loss},
            _card("KL, nats a token", figures["kl"]),
            _card("EAR", figures["ear"]),
        ]
    if "acos" in figures:
        cards += [_card("ACos", figures["acos"]), _card("NMSE", figures["nmse"])]
    return cards


def _card(title: str, figure: Any) -> dict[str, str]:
    value, span = wording.value_and_span(figure)
    return {"title": title, "value": value, "note": span}


def _budget(said: Any) -> str:
    """A budget, which plans state as a fraction."""
    from fractions import Fraction

    try:
        return f"{float(Fraction(str(said))):g}"
    except ValueError:
        return str(said)


def _figures(judged: Judgement | None) -> list[dict[str, str]]:
    if judged is None:
        return []
    rows = []
    for name, figure in judged.figures.items():
        value, span = wording.value_and_span(figure)
        title = wording.FIGURES[name]
        rows.append({"title": title, "value": value, "span": span, "over": wording.over(name)})
    return rows


def _judged_on(judged: Judgement | None) -> str:
    if judged is None or judged.outputs is None:
        return ""
    outputs = judged.outputs
    return (
        f"{len(outputs.windows)} windows of {outputs.context} tokens ({outputs.tokens:,} "
        f"predicted) of {judged.text}"
    )


def _plots(units: Sequence[Mapping[str, Any]], missing: list[str]) -> list[dict[str, Any]]:
    """The drawings that the values allow, as elements of the page."""
    from markupsafe import Markup

    try:
        drawings.package()
    except MissingPackage as error:
        missing.append(f"There are no drawings: {error}.")
        return []
    with_errors = [u for u in units if u["nmse"] is not None]
    with_times = [u for u in units if u["seconds"] is not None]
    wanted: list[tuple[str, Callable[..., None], Sequence[Any], tuple[float, float]]] = [
        ("Error and bits, layer by layer", drawings.by_layer, with_errors, (10.5, 5.2)),
        ("Choices", drawings.histogram, units, (5.2, 3.4)),
        ("Error against bits", drawings.against_bpw, with_errors, (5.2, 3.4)),
        ("Time", drawings.times, with_times, (10.5, 2.4)),
    ]
    return [
        {
            "title": title,
            "wide": size[0] > 6,
            # Matplotlib escapes what it writes; `inline_svg` adds plain words alone.
            "svg": Markup(  # noqa: S704
                drawings.inline_svg(partial(draw, units=values), size, title, title)
            ),
        }
        for title, draw, values, size in wanted
        if values
    ]


def _shown(unit: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table: texts, and the numbers that it is sorted by."""
    cells = {
        "elements": f"{unit['elements']:,}",
        "bpw": f"{unit['bpw']:.4f}",
        "acos": _figure(unit["acos"], ".6f"),
        "nmse": _figure(unit["nmse"], ".4e"),
        "mse": _figure(unit["mse"], ".4e"),
        "seconds": _figure(unit["seconds"], ".2f"),
        "peak_bytes": "–" if not unit["peak_bytes"] else wording.octets(unit["peak_bytes"]),
    }
    numbers = [
        {"text": text, "by": -1 if unit[key] is None else unit[key]} for key, text in cells.items()
    ]
    return {
        "name": unit["name"],
        "choice": unit["choice"],
        "atoms": unit["atoms"],
        "members": unit["members"],
        "numbers": numbers,
    }


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _sizes(checkpoint: Checkpoint) -> list[dict[str, str]]:
    """Which files the bits per weight are made of."""
    packed = sum(f.stat().st_size for f in checkpoint.folder.glob("quantized-*.safetensors"))
    manifest = (checkpoint.folder / MANIFEST).stat().st_size
    parts = {
        "packed weights": packed,
        "formats": checkpoint.disk_bytes - packed - manifest,
        "manifest": manifest,
        "all that counts": checkpoint.disk_bytes,
    }
    return [{"title": title, "value": f"{count:,}"} for title, count in parts.items()]


def _provenance(found: Found) -> list[dict[str, str]]:
    """Where it comes from: hashes, the recipe, the calibration."""
    checkpoint, judged = found.checkpoint, found.judgement
    plan = checkpoint.plan
    said: dict[str, Any] = {
        "checkpoint": str(checkpoint.folder.resolve()),
        "manifest SHA-256": checkpoint.manifest_hash,
    }
    for group in ("recipe", "calibration"):
        inner = plan.get(group, {})
        if isinstance(inner, Mapping):
            said |= {f"{group}: {key}": value for key, value in inner.items()}
    if judged is not None:
        said |= {
            "reference": judged.reference,
            "reference SHA-256": judged.subject.reference,
            "text judged on": judged.text,
            "text SHA-256": judged.subject.text,
            "quantized model ran": judged.subject.run,
            "norms that weigh": judged.subject.norms or "none: all 1",
        }
    return [{"title": key, "value": _plain(value)} for key, value in said.items()]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _formats(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Every format: its text, and how many matrices are in it."""
    users: dict[str, int] = {}
    for name in checkpoint.quantized_names:
        key = checkpoint.format_of(name).content_hash
        users[key] = users.get(key, 0) + 1
    return [
        {"name": fmt.name, "hash": key, "text": fmt.source, "users": users.get(key, 0)}
        for key, fmt in sorted(checkpoint.formats.items(), key=lambda item: -users.get(item[0], 0))
    ]
