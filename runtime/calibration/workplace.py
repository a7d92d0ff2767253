"""The folder of an unfinished calibration: from its files a killed one goes on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from ..atomic import write_atomically
from ..errors import CorruptFile, RefusedInput
from .result import HESSIAN, NORMS
from .statistics import LayerStatistics
from .store import Store, write_store

_RUN, _HIDDEN, _SCRATCH = "run.json", "hidden.safetensors", "scratch"
_LAYER_KIND, _HIDDEN_KIND = "statistics of a layer", "hidden states"

#: A file of ours that never got its name.
_LEFT_OVER = re.compile(r"\.(run\.json|hidden\.safetensors|layer-\d+\.safetensors)\.\w+(\.part)?")


class Workplace:
    """What has been done of one calibration.

    For each finished layer there is a file of statistics. The hidden states after the last one
    are in a file that is replaced after the statistics are there, so that at any moment the
    two tell where to go on.

    Args:
        folder: made if it is not there.
        parts: everything that decides the result, by what a user would call it.
        layers: how many the model has.
        lasting: whether it is to outlive the process.

    Raises:
        RefusedInput: the folder is of another calibration; the message says what differs.
        CorruptFile: its files are damaged.
    """

    def __init__(
        self, folder: Path, parts: Mapping[str, str], layers: int, *, lasting: bool
    ) -> None:
        self.folder = folder
        self._lasting = lasting
        self._layers = layers
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / _RUN
        if file.is_file():
            self._compare(file, parts)
        elif any(not _LEFT_OVER.fullmatch(entry.name) for entry in folder.iterdir()):
            raise RefusedInput(f"'{folder}' holds files that are of no calibration: name another")
        self._clear()
        write_atomically(file, json.dumps(dict(parts), indent=1).encode())

    def finished(self) -> int:
        """How many layers need not be run again: all, or those before the hidden states."""
        if all(self._file(layer).is_file() for layer in range(self._layers)):
            return self._layers
        if not (self.folder / _HIDDEN).is_file():
            return 0
        return int(self._open(self.folder / _HIDDEN, _HIDDEN_KIND).facts["layers"])

    def hidden(self) -> torch.Tensor:
        """The hidden states after the finished layers, float32 ``[windows, context, channels]``."""
        store = self._open(self.folder / _HIDDEN, _HIDDEN_KIND)
        keys = sorted(store.digests)
        first = store.read(keys[0])
        hidden = torch.empty((len(keys), *first.shape))
        for window, key in zip(hidden, keys, strict=True):
            window.copy_(store.read(key))
        return hidden

    def keep_layer(
        self, layer: int, statistics: LayerStatistics, hessians: Iterable[tuple[str, torch.Tensor]]
    ) -> None:
        """Store the statistics of a layer."""

        def tensors() -> Iterable[tuple[str, torch.Tensor]]:
            for name, norm in statistics.norms.items():
                yield NORMS + name, norm
            for name, hessian in hessians:
                yield HESSIAN + name, hessian
                del hessian

        names = list(statistics.norms)
        facts = {"names": names, "same": statistics.same, "counts": statistics.counts}
        write_store(self._file(layer), _LAYER_KIND, facts, tensors(), lasting=self._lasting)

    def keep_hidden(self, layers: int, hidden: torch.Tensor) -> None:
        """Store the hidden states after so many layers."""
        windows = ((f"{i:05d}", window) for i, window in enumerate(hidden))
        write_store(self.folder / _HIDDEN, _HIDDEN_KIND, {"layers": layers}, windows)

    def layer(self, layer: int) -> tuple[LayerStatistics, Store]:
        """The statistics of a layer, and the file, which may have Hessians."""
        store = self._open(self._file(layer), _LAYER_KIND)
        names, same, counts = (store.facts[key] for key in ("names", "same", "counts"))
        # The tables of JSON are sorted; the list has the order of the model's files.
        statistics = LayerStatistics(
            {name: store.read(NORMS + name) for name in names},
            {name: same[name] for name in names},
            {name: counts[name] for name in names},
        )
        return statistics, store

    def scratch(self) -> Path:
        """An empty folder for what need not outlive the process."""
        place = self.folder / _SCRATCH
        place.mkdir(exist_ok=True)
        return place

    def _file(self, layer: int) -> Path:
        return self.folder / f"layer-{layer:04d}.safetensors"

    def _clear(self) -> None:
        """Remove what a killed process left half-written."""
        shutil.rmtree(self.folder / _SCRATCH, ignore_errors=True)
        for entry in list(self.folder.iterdir()):
            if _LEFT_OVER.fullmatch(entry.name):
                entry.unlink()

    def _compare(self, file: Path, parts: Mapping[str, str]) -> None:
        try:
            begun = json.loads(file.read_text(encoding="utf-8"))
            differing = [name for name in parts if begun[name] != parts[name]]
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptFile(f"'{file}' is damaged: remove '{self.folder}'") from error
        if differing:
            said = "; ".join(f"{n} was {begun[n]}, is {parts[n]}" for n in differing)
            raise RefusedInput(
                f"'{self.folder}' is of another calibration: {said}. "
                "Remove it to begin anew, or name another"
            )

    def _open(self, path: Path, kind: str) -> Store:
        try:
            return Store.open(path, kind)
        except CorruptFile as error:
            raise CorruptFile(f"{error}; remove '{self.folder}' to begin anew") from error
