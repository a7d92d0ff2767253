"""How the command line shows the integer datapath of a format: widths, exactness, accumulators."""

from __future__ import annotations

from typing import Any

import click

from . import console

#: What a stage is called on paper.
_NAMES = {
    "element": "element",
    "product": "element x activation",
    "block_sum": "block sum",
    "scale": "scale",
    "scaled_element": "element x scale",
    "scale_product": "scale x scale",
    "term": "block sum x scales",
}


def show(found: dict[str, Any]) -> None:
    """Print ``Datapath.as_json()``: one row a stage, then what sums of any length need."""
    click.echo(f"integer datapath, {found['activation'].upper()} activations")
    console.table(
        [
            {
                "stage": _NAMES[name],
                "bits": stage["bits"],
                "significand": stage["significand"],
                "exact in": _exact(stage["inexact"]),
                "because": stage["derivation"],
            }
            for name, stage in found["stages"].items()
        ]
    )
    row = found["row_sum"]
    limits = [f"{most:,} in {width} bits" for width, most in row["most_steps"].items() if most]
    if row["most_steps_exact_in_fp32"]:
        limits.append(f"{row['most_steps_exact_in_fp32']:,} in fp32, exactly")
    click.echo(f"row of K products without scales: {row['width_of_n'].replace(' n', ' K')} bits;")
    click.echo(f"  never overflows: K up to {', '.join(limits)}")
    exact = found["exact_sum"]
    if exact:
        click.echo(
            f"exact sum of blocks with scales: {exact['width_of_one']} bits for one, a bit more "
            "each time their number doubles"
        )
    if found["fp32_sum"]:
        click.echo(
            "fp32 sum of n blocks, one rounding each: within n u / (1 - n u) of the sum of the "
            "terms' magnitudes, u = 2^-24"
        )
    for reason in found["missing"]:
        click.echo(f"not stated: {reason}")


def _exact(inexact: dict[str, Any]) -> str:
    """The narrowest float that holds every value of a stage."""
    return next((name for name, why in inexact.items() if why is None), "-")
