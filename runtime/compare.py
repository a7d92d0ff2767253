"""Formats side by side on the same data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .backend import F32
from .checkpoint import Progress
from .errors import RefusedInput, UnusableModel
from .format import Format
from .sources import open_source

#: Shape and seed of the Gaussian sample: 2^21 values, in rows that all shipped blocks divide.
GAUSSIAN_SHAPE = (512, 4096)
GAUSSIAN_SEED = 0


def compare_formats(
    formats: Sequence[Format], data: str, *, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Bits per weight and error of every format.

    Args:
        formats: the formats.
        data: ``gaussian`` for N(0, 1), or the path of a model, whose linear weights are taken.
        progress: called with what is done, steps done, steps in all.

    Returns:
        One row a format: bpw (stored bits / elements), mse, nmse (squared error / squares)
        and SQNR in dB.

    Raises:
        UnusableModel: ``data`` is neither.
        RefusedInput: a weight holds a NaN or an infinity that a format refuses.
    """
    weights = [0] * len(formats)
    octets = [0] * len(formats)
    errors = [0.0] * len(formats)
    energy = 0.0
    for what, done, total, x in _pieces(data):
        energy += float(np.sum(np.square(x, dtype=np.float64)))
        for index, fmt in enumerate(formats):
            if progress:
                step = done * len(formats) + index
                progress(f"{what} in {fmt.name}", step, total * len(formats))
            try:
                q = fmt.quantize(x)
            except RefusedInput as error:
                raise RefusedInput(f"{what}: {error}") from error
            errors[index] += float(np.sum(np.square(x - q.to_float32(), dtype=np.float64)))
            weights[index] += x.size
            octets[index] += q.nbytes
    if not weights[0]:
        raise UnusableModel(f"'{data}' has no linear weight to compare on")
    return [
        {
            "format": fmt.name,
            "bpw": 8 * octets[index] / weights[index],
            "MSE": errors[index] / weights[index],
            "NMSE": errors[index] / energy if energy else 0.0,
            "SQNR dB": 10 * float(np.log10(energy / errors[index])) if errors[index] else None,
        }
        for index, fmt in enumerate(formats)
    ]


def _pieces(data: str) -> Iterator[tuple[str, int, int, F32]]:
    if data == "gaussian":
        rng = np.random.default_rng(GAUSSIAN_SEED)
        yield "gaussian", 0, 1, rng.standard_normal(GAUSSIAN_SHAPE, dtype=np.float32)
        return
    source = open_source(data)
    names = source.linear_names
    for done, name in enumerate(names):
        yield name, done, len(names), source.get(name).float().numpy()
