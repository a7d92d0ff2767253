"""Calibration: a model is run layer by layer, with the weights of one in memory.

The hidden states of all windows are kept, and go through one decoder layer after another; what
each of its matrices is multiplied with is summed up. Norms are those of SOP's channel-weighted
cosine, c_j = sqrt(E[x_j^2]); Hessians are E[x x^T], as GPTQ and its kin take them.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..._version import __version__
from ..errors import UnusableModel
from ..sources import ModelSource, open_source
from .body import Body, Call, empty_body, enter, run_layer, set_parameter
from .result import HESSIAN, Calibration, StoredHessians
from .statistics import LayerStatistics, Spool, combine
from .store import Store
from .texts import text_hash
from .threads import Windows, side_by_side
from .watch import Inputs, Watch, Watched
from .weights import StoredWeights
from .windows import read_config, refuse_long_windows, windows_of
from .workplace import Workplace

Progress = Callable[[str, int, int], None]


def calibrate(
    model: str | Path,
    text: str,
    *,
    tokens: int = 8192,
    context: int = 512,
    hessians: bool = False,
    work: Path | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
) -> Calibration:
    """Run a text through a model and sum up what its matrices are multiplied with.

    Computes in float32 on the CPU. Memory has the weights of one decoder layer, the hidden
    states of all windows, and what a layer computes of as many windows as there are threads;
    with ``hessians`` also one Hessian after the weights are gone, and the inputs of one layer
    are on disk. The result does not depend on the number of threads.

    Statistics are of the matrices inside decoder layers. An expert's norm is over the tokens
    that were sent to it; one that saw none has norms of zero and stands in ``unseen``.

    Args:
        model: a Hugging Face folder: safetensors, configuration, tokenizer.
        text: what to run; see `read_texts`.
        tokens: how many in all; what is less than a window is left out.
        context: tokens a window.
        hessians: also E[x x^T] of each input.
        work: a folder that keeps what is finished after each layer, so that a calibration that
            was killed goes on from there, and ends with the same bytes. It stays; give it again
            to have the result at once. With None nothing is kept.
        progress: called with (what, layers done, layers) after each layer.
        threads: windows side by side; None: one a processor.

    Raises:
        UnusableModel: the folder's model cannot be built, is no row of decoder layers, or its
            weights are arranged in a way that is not known.
        RefusedInput: the text is too short, or ``work`` is of another calibration.
        CorruptFile: a file is truncated or altered.
        MissingPackage: transformers or safetensors is not installed.
    """
    folder = Path(model)
    config = read_config(folder)
    source = open_source(folder)
    refuse_long_windows(config.get_text_config(), context, folder)
    windows = windows_of(folder, text, tokens, context)
    body = empty_body(config, folder)
    weights = StoredWeights(source, body.prefix)
    facts: dict[str, Any] = {
        "tokens": windows.numel(),
        "context": context,
        "text_sha256": text_hash(text),
        "model_sha256": source.content_hash(),
    }
    parts = _parts(facts, folder, windows, hessians=hessians)
    with _folder(work) as (place, keeper), side_by_side(threads) as pool:
        workplace = Workplace(place, parts, len(body.layers), lasting=work is not None)
        run = _Run(body, weights, source, windows, workplace, pool, hessians, work is not None)
        run.finish(progress)
        return _gathered(workplace, len(body.layers), source, facts, keeper)


def _parts(
    facts: Mapping[str, Any], folder: Path, windows: torch.Tensor, *, hessians: bool
) -> dict[str, str]:
    """Everything that decides the result, by what a user would call it."""
    import transformers

    config = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    ids = hashlib.sha256(windows.numpy().tobytes()).hexdigest()
    software = f"fmtc {__version__}, torch {torch.__version__}"
    software += f", transformers {transformers.__version__}"
    processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return {
        "model's weights (SHA-256)": facts["model_sha256"],
        "model's config.json (SHA-256)": config,
        "text (SHA-256)": facts["text_sha256"],
        "tokens": str(facts["tokens"]),
        "context": str(facts["context"]),
        "tokenized text (SHA-256)": ids,
        "hessians": str(hessians),
        "software": software,
        "processor": processor,
    }


class _Temporary:
    """A folder that is removed with the last value that needs its files, or with the process."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="fmtc-calibration-"))
        self.remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@contextmanager
def _folder(work: Path | None) -> Iterator[tuple[Path, _Temporary | None]]:
    """The folder to work in, and what keeps it in being if it is nobody's."""
    if work is not None:
        yield Path(work), None
        return
    keeper = _Temporary()
    try:
        yield keeper.path, keeper
    except BaseException:
        keeper.remove()
        raise


@dataclass(slots=True)
class _Run:
    """One calibration on its way through the layers."""

    body: Body
    weights: StoredWeights
    source: ModelSource
    windows: torch.Tensor
    workplace: Workplace
    pool: Windows
    hessians: bool
    resumable: bool
    _calls: tuple[Call, ...] = ()
    _hidden: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    _room: dict[tuple[str, torch.Size], torch.Tensor] = field(default_factory=dict)

    def finish(self, progress: Progress | None) -> None:
        """Run the layers that have not been."""
        count = len(self.body.layers)
        done = self.workplace.finished()
        if progress is not None:
            progress("embedding" if done < count else "done", done, count)
        if done == count:
            return
        self._begin(done)
        for layer in range(done, count):
            statistics, spool = self._layer(layer)
            found: Iterable[tuple[str, torch.Tensor]] = ()
            if spool is not None:
                self._room.clear()  # a large Hessian takes the place of the weights
                found = spool.hessians(statistics, len(self.windows), self.pool)
            self.workplace.keep_layer(layer, statistics, found)
            if self.resumable and layer + 1 < count:
                self.workplace.keep_hidden(layer + 1, self._hidden)
            if progress is not None:
                progress(self.body.names[layer], layer + 1, count)

    def _begin(self, done: int) -> None:
        """The hidden states before the first layer to run, and how layers are called."""
        states: list[torch.Tensor] = []

        def keep(index: int, hidden: torch.Tensor) -> None:
            if not states:
                with torch.inference_mode(mode=False):
                    states.append(torch.empty((len(self.windows), *hidden.shape[1:])))
            states[0][index].copy_(hidden[0])

        def forget(index: int, hidden: torch.Tensor) -> None:
            del index, hidden

        if done:
            self._calls = enter(self.body, self.weights, self.windows[:1], forget)
            self._hidden = self.workplace.hidden()
        else:
            self._calls = enter(self.body, self.weights, self.windows, keep)
            self._hidden = states[0]

    def _layer(self, layer: int) -> tuple[LayerStatistics, Spool | None]:
        """Run all windows through a layer, in place."""
        module, home = self.body.layers[layer], self.body.names[layer]
        empty = dict(module.named_parameters())
        watched = self._filled(home, empty)
        shapes, experts = self._matrices(watched.values())
        spool = Spool(self.workplace.scratch(), shapes) if self.hessians else None

        def window(index: int) -> Inputs:
            watch = Watch(watched, None if spool is None else spool.keeper(index))
            # A copy begins where all tensors begin: sums may depend on where in memory they lie.
            hidden = self._hidden[index : index + 1].clone()
            with torch.inference_mode(), watch:
                after = run_layer(module, self._calls[layer], hidden)
            if after.shape != hidden.shape:
                raise UnusableModel(f"{home} returns {tuple(after.shape)}: no hidden states")
            self._hidden[index].copy_(after[0])
            return watch.inputs

        seen = self.pool.map(window, range(len(self.windows)))
        for name, parameter in empty.items():
            set_parameter(self.body.model, f"{home}.{name}", parameter)
        return combine(seen, shapes, experts), spool

    def _matrices(
        self, watched: Iterable[Watched]
    ) -> tuple[dict[str, tuple[int, ...]], frozenset[str]]:
        """The axes of a layer's matrices in the order of the files, and which are experts'."""
        pieces = {piece.name: piece for each in watched for piece in each.pieces}
        names = [name for name in self.source.linear_names if name in pieces]
        experts = {n for n in names if pieces[n].expert is not None or ".experts." in n}
        return {name: self.source.shape(name) for name in names}, frozenset(experts)

    def _filled(self, home: str, empty: Mapping[str, torch.Tensor]) -> dict[int, Watched]:
        """Read a layer's weights into the room of the layer before, where that fits."""
        kept = {(name, p.shape): self._room.get((name, p.shape)) for name, p in empty.items()}
        self._room.clear()
        watched = {}
        for (name, shape), room in kept.items():
            target = torch.empty(shape, dtype=torch.float32) if room is None else room
            kept[name, shape] = None
            self._room[name, shape] = target
            pieces = self.weights.pieces(f"{home}.{name}", shape)
            self.weights.fill(target, pieces)
            set_parameter(self.body.model, f"{home}.{name}", target)
            watched[target.untyped_storage().data_ptr()] = Watched(target, pieces)
        return watched


def _gathered(
    workplace: Workplace,
    layers: int,
    source: ModelSource,
    facts: Mapping[str, Any],
    keeper: _Temporary | None,
) -> Calibration:
    """The statistics of all layers as one value, in the order of the model's files."""
    norms: dict[str, torch.Tensor] = {}
    same: dict[str, str] = {}
    homes: dict[str, Store] = {}
    unseen: set[str] = set()
    for layer in range(layers):
        statistics, store = workplace.layer(layer)
        norms |= statistics.norms
        same |= statistics.same
        unseen.update(statistics.unseen)
        for key in store.digests:
            if key.startswith(HESSIAN):
                homes[key.removeprefix(HESSIAN)] = store
    names = [name for name in source.linear_names if name in norms]
    if keeper is not None and not homes:
        keeper.remove()
    return Calibration(
        norms={name: norms[name] for name in names},
        hessians=StoredHessians(homes, same, keeper),
        same={name: same[name] for name in names},
        unseen=tuple(name for name in names if name in unseen),
        **facts,
    )
