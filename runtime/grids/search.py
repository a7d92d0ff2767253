"""SOP's search for a layer's grids (arXiv:2605.14929): two atoms, or one and a learned grid.

* Every atom of the alphabet and its negation, as the host holds it, encodes all sampled blocks
  under the deployed scale word. So each pair of atoms is scored outright: a block counts by the
  better of the two.
* Beside every atom L_a a grid is learned: blocks are ranked by what they lose under L_a, the best
  p % are its pool, and for the rest levels are chosen among the host's points, exactly. Then every
  block takes the better of both, levels are chosen again for those that took the learned grid, and
  so on while the objective falls. Each p is tried, at the host's largest top; beside the atoms
  that come out best, every other top as well (see ``alphabet``).
* The best few are encoded once more by the format that is written, in which both grids share one
  second level; the best of these is the find.

Everything is deterministic: samples, order and ties (the first, to nine digits) are fixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from .alphabet import Hosted, alphabet, hosted, learned_name, tops_of
from .learner import Learner
from .options import SearchOptions
from .pair_text import format_of
from .scoring import Scorer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...compiler.format import Format

    F32 = NDArray[np.float32]

__all__ = ["Found", "SearchOptions", "encoder_weights", "search_pair"]

#: Candidates that are encoded once more by the format that would be written.
FINALISTS = 4
#: Atoms beside which a grid is learned at every top.
BEST_ATOMS = 3
#: A candidate is better only by more than this, relatively: sums differ in their last digits.
_SAME = 1e-9


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Attributes:
        text: the canonical .fmt text of the whole format, its values frozen.
        atoms: of every grid by its index, as ``("NF4", "DD4")`` or ``("SH4", "-SH4")``.
        score: the objective of the sampled blocks under that format: what ACos lacks to 1, or the
            (weighted) squared error over the energy.
        trace: the objective on the way: under the first atom alone, then after every
            reassignment; it never rises.
        tried: grids and pairs that were scored.
    """

    text: str
    atoms: tuple[str, ...]
    score: float
    trace: tuple[float, ...]
    tried: int


@dataclass(frozen=True, slots=True)
class _Candidate:
    grids: tuple[Hosted, ...]
    total: float
    trace: tuple[float, ...]


def search_pair(
    weights: Sequence[F32], norms: F32 | None, options: SearchOptions | None = None
) -> Found:
    """The grids for matrices that read the same input and share a choice.

    Args:
        weights: float32 [rows, n] each, of one n.
        norms: channel norms float32 [n], c_j = sqrt(E[x_j^2]); None: all 1.
        options: see ``SearchOptions``.

    Raises:
        RefusedInput: a weight or a norm is not finite, all weights are zero, or the host has too
            few points for an atom.
    """
    options = options or SearchOptions()
    scorer = Scorer(
        weights,
        norms,
        block=options.block,
        limit=options.sample,
        counted=options.reassign,
        ranked=options.rank,
    )
    search = _Search(scorer, options)
    candidates = list(search.candidates())
    ranked = sorted(candidates, key=lambda candidate: candidate.total)
    best, score = ranked[0], float("inf")
    for candidate in ranked[:FINALISTS]:
        total = scorer.best(format_of(candidate.grids, options)).total
        if total < score * (1 - _SAME):
            best, score = candidate, total
    return Found(
        text=format_of(best.grids, options).source,
        atoms=tuple(grid.name for grid in best.grids),
        score=score,
        trace=best.trace,
        tried=search.tried,
    )


def encoder_weights(fmt: Format, norms: F32 | None) -> F32 | None:
    """What ``quantize(weights=...)`` takes so that the encoder chooses by SOP's metrics.

    The channel norms c themselves, for ``error cosine`` and for the residuals of ``side wr``;
    their squares under ``error weighted``.
    """
    if norms is None or fmt.policies.error != "weighted":
        return norms
    return np.square(norms)


class _Search:
    """One unit's candidates."""

    def __init__(self, scorer: Scorer, options: SearchOptions) -> None:
        self.options = options
        self.scorer = scorer
        self.tried = 0
        self._learners: dict[Fraction, Learner] = {}
        self.learned = learned_name(options.bits)
        self.atoms = self._atoms()
        one = options.of_one_grid
        self.losses = [scorer.best(format_of((atom,), one)) for atom in self.atoms]
        self.least = np.minimum.reduce([found.ranked for found in self.losses] or [np.zeros(0)])

    def candidates(self) -> Iterator[_Candidate]:
        """All of them, in the order in which the first of equals wins."""
        if self.options.grids == 1:
            yield from self._singles()
            return
        if self.options.pair is None or not self.options.learns:
            yield from self._pairs()
        if self.options.learns:
            yield from self._partners()

    def _atoms(self) -> list[Hosted]:
        options = self.options
        if options.pair is not None:
            names = [name for name in options.fixed if name != self.learned]
            return [
                hosted(
                    name, options.host, bits=options.bits, block=options.block, rule=options.rule
                )
                for name in names
            ]
        found = alphabet(
            options.names,
            options.host,
            bits=options.bits,
            block=options.block,
            rule=options.rule,
        )
        # Where both signs are tried, or the rule chooses one, a negation is nothing new.
        mirrored = options.mirrors or options.rule == "argmax"
        return [atom for atom in found if not (mirrored and atom.name.startswith("-"))]

    def _singles(self) -> Iterator[_Candidate]:
        for atom, losses in zip(self.atoms, self.losses, strict=True):
            self.tried += 1
            yield _Candidate((atom,), losses.total, (losses.total,))
        if self.options.learns:
            for top in tops_of(self.options.host):
                found = self._learner(top).alone()
                self.tried += found.tried
                grid = Hosted(self.learned, found.values)
                yield _Candidate((grid,), found.trace[-1], found.trace)

    def _pairs(self) -> Iterator[_Candidate]:
        for index, (atom, losses) in enumerate(zip(self.atoms, self.losses, strict=True)):
            for other, theirs in zip(
                self.atoms[index + 1 :], self.losses[index + 1 :], strict=True
            ):
                self.tried += 1
                total = float(np.minimum(losses.counted, theirs.counted).sum())
                trace = losses.total, total
                yield _Candidate((atom, other), total, trace)

    def _partners(self) -> Iterator[_Candidate]:
        """A learned grid beside every atom, at the largest top; beside the best at all tops."""
        largest, *others = tops_of(self.options.host)
        ranked = []
        for index in range(len(self.atoms)):
            found = self._beside(index, largest)
            ranked.append((found.total, index))
            yield found
        for top in others:
            for _, index in sorted(ranked)[:BEST_ATOMS]:
                yield self._beside(index, top)

    def _beside(self, index: int, top: Fraction) -> _Candidate:
        atom, losses = self.atoms[index], self.losses[index]
        found = self._learner(top).beside(losses, losses.ranked - self.least)
        self.tried += found.tried
        grids = atom, Hosted(self.learned, found.values)
        if self.options.pair is not None and self.options.fixed[0] == self.learned:
            grids = grids[1], grids[0]
        return _Candidate(grids, found.trace[-1], (losses.total, *found.trace))

    def _learner(self, top: Fraction) -> Learner:
        if top not in self._learners:
            self._learners[top] = Learner(self.scorer, self.options, top)
        return self._learners[top]
