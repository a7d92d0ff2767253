"""What a layer's matrices see: norms of channels, and Hessians, over all windows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import UnusableModel
from .threads import Windows
from .watch import Inputs

#: Rows of a Hessian that one thread sums at a time.
_PANEL = 128

#: Rows of an input that it reads at once.
_ROWS = 64


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """The statistics of one decoder layer.

    Attributes:
        norms: weight name -> sqrt(E[x_j^2]) of its input's channels, float32 ``[in]``; zeros for
            an expert that saw no token.
        same: weight name -> the first weight of the layer that takes the same input.
        counts: weight name -> tokens it saw.
    """

    norms: dict[str, torch.Tensor]
    same: dict[str, str]
    counts: dict[str, int]

    @property
    def unseen(self) -> tuple[str, ...]:
        """Experts that no token was sent to."""
        return tuple(name for name, count in self.counts.items() if not count)

    @property
    def firsts(self) -> tuple[str, ...]:
        """One weight for each input that there was."""
        return tuple(dict.fromkeys(first for n, first in self.same.items() if self.counts[n]))


def combine(
    windows: Sequence[Inputs], shapes: Mapping[str, tuple[int, ...]], experts: frozenset[str]
) -> LayerStatistics:
    """Sum up what the windows saw, in their order.

    Args:
        windows: what `Watch` recorded in each.
        shapes: weight name -> its axes, for all matrices of the layer.
        experts: those of them that may have seen nothing.

    Raises:
        UnusableModel: a matrix is not used as one, or an input is not finite.
    """
    counts = {name: sum(w.counts.get(name, 0) for w in windows) for name in shapes}
    same: dict[str, str] = {}
    for window in windows:
        for name, first in window.same.items():
            if same.setdefault(name, first) != first:
                raise UnusableModel(f"{name} shares its input with others in some windows only")
    _refuse_unused(counts, experts)
    norms = {}
    for name, shape in shapes.items():
        if not counts[name]:
            norms[name] = torch.zeros(shape[1])
            same[name] = name
            continue
        total = torch.zeros(shape[1], dtype=torch.float64)
        for window in windows:
            if name in window.same:
                total += window.squares[same[name]]
        norms[name] = (total / counts[name]).sqrt().float()
        if not bool(torch.isfinite(norms[name]).all()):
            raise UnusableModel(
                f"the inputs of {name} are not finite: the model's weights are damaged, or its "
                "activations exceed float32"
            )
    return LayerStatistics(norms, {name: same[name] for name in shapes}, counts)


def _refuse_unused(counts: Mapping[str, int], experts: frozenset[str]) -> None:
    unused = [name for name, count in counts.items() if not count]
    idle = experts.intersection(unused)
    if len(idle) < len(unused) or (idle and idle == experts):
        name = next(name for name in unused if name not in idle or idle == experts)
        raise UnusableModel(
            f"the model does not multiply with {name} as linear layers do: such models are not "
            "calibrated"
        )


class Spool:
    """Inputs of one layer's matrices on disk: memory has room for one window's alone.

    Args:
        folder: where to; it must exist.
        names: all matrices of the layer.
    """

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self._folder = folder
        self._numbers = {name: number for number, name in enumerate(names)}

    def keeper(self, window: int) -> Callable[[str, torch.Tensor], None]:
        """What stores the inputs of one window."""

        def keep(name: str, rows: torch.Tensor) -> None:
            rows.contiguous().numpy().tofile(self._file(window, name))

        return keep

    def hessians(
        self, statistics: LayerStatistics, windows: int, pool: Windows
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """The Hessian of each input, one at a time, and its files are removed.

        It is sum of x x^T / tokens, summed in float64 and stored in float32 ``[in, in]``,
        exactly symmetric.
        """
        for name in statistics.firsts:
            files = [self._file(window, name) for window in range(windows)]
            files = [file for file in files if file.exists()]
            width = len(statistics.norms[name])
            yield name, _hessian(files, width, statistics.counts[name], pool)
            for file in files:
                file.unlink()

    def _file(self, window: int, name: str) -> Path:
        return self._folder / f"{self._numbers[name]:05d}-{window:05d}.f32"


def _rows(files: Sequence[Path], width: int, stop: int) -> Iterator[torch.Tensor]:
    """The first columns of all rows, float64, a few rows at a time."""
    for file in files:
        with file.open("rb") as octets:
            while (flat := np.fromfile(octets, np.float32, _ROWS * width)).size:
                yield torch.from_numpy(flat.reshape(-1, width)[:, :stop]).double()


def _hessian(files: Sequence[Path], width: int, count: int, pool: Windows) -> torch.Tensor:
    out = torch.empty((width, width), dtype=torch.float32)

    def panel(start: int) -> None:
        stop = min(start + _PANEL, width)
        total = torch.zeros((stop - start, stop), dtype=torch.float64)
        for x in _rows(files, width, stop):
            total.addmm_(x[:, start:].T, x)
        lower = total.div_(count).float()
        # One half is computed and mirrored: products in another order differ in their last bits.
        corner = lower[:, start:].tril()
        lower[:, start:] = corner + corner.tril(-1).T
        out[start:stop, :stop] = lower
        out[:start, start:stop] = lower[:, :start].T

    pool.map(panel, range(0, width, _PANEL))
    return out
