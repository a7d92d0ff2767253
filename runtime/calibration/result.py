"""A calibration: what was learned of a model's activations, in one file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CorruptFile
from ..manifest import tensor_digest
from .store import Store, write_store

if TYPE_CHECKING:
    import torch

KIND = "a calibration"
NORMS, HESSIAN = "norms.", "hessian."


class StoredHessians(Mapping[str, "torch.Tensor"]):
    """Hessians by weight name, read from files when they are asked for.

    Args:
        homes: first weight -> the file that has its Hessian.
        same: weight name -> the first weight that takes the same input.
        keeper: whatever keeps the files in being.
    """

    def __init__(
        self, homes: Mapping[str, Store], same: Mapping[str, str], keeper: object = None
    ) -> None:
        self._homes = dict(homes)
        self._same = {name: first for name, first in same.items() if first in homes}
        self._keeper = keeper

    def __getitem__(self, name: str) -> torch.Tensor:
        """The Hessian float32 ``[in, in]`` of a weight's input; it is not kept in memory."""
        first = self._same[name]
        return self._homes[first].read(HESSIAN + first)

    def __iter__(self) -> Iterator[str]:
        return iter(self._same)

    def __len__(self) -> int:
        return len(self._same)

    def digest(self, name: str) -> str:
        """SHA-256 of a Hessian, which is not read for that."""
        first = self._same[name]
        return self._homes[first].digests[HESSIAN + first]


@dataclass(frozen=True)
class Calibration:
    """Statistics of the inputs of a model's matrices.

    Attributes:
        norms: weight name -> c_j = sqrt(E[x_j^2]) of its input's channels, float32 ``[in]``.
        hessians: weight name -> E[x x^T], float32 ``[in, in]``; empty if they were not wanted.
            They are read when asked for.
        tokens: how many were run.
        context: tokens a window.
        text_sha256: of the text they came from.
        model_sha256: of the model's weights.
        same: weight name -> the first weight that takes the same input.
        unseen: experts that no token was sent to; their norms are zero and they have no Hessian.
    """

    norms: Mapping[str, torch.Tensor]
    hessians: Mapping[str, torch.Tensor]
    tokens: int
    context: int
    text_sha256: str
    model_sha256: str = ""
    same: Mapping[str, str] = field(default_factory=dict)
    unseen: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that it says, as hex digits; large Hessians are not read for it."""
        digests = {NORMS + name: tensor_digest(norm) for name, norm in self.norms.items()}
        for name in self._owners():
            digests[HESSIAN + name] = self._hessian_digest(name)
        said = json.dumps([self._facts(), digests], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write it to one safetensors file, which appears whole.

        Memory has one Hessian at a time. Weights that share their input share a Hessian there.
        """

        def tensors() -> Iterator[tuple[str, torch.Tensor]]:
            for name, norm in self.norms.items():
                yield NORMS + name, norm
            for name in self._owners():
                yield HESSIAN + name, self.hessians[name]

        write_store(Path(path), KIND, self._facts(), tensors())

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read a file of `save`.

        The norms are read and checked; Hessians are when they are asked for.

        Raises:
            FileNotFoundError: there is no such file.
            CorruptFile: it is truncated, altered or no calibration.
        """
        store = Store.open(Path(path), KIND)
        facts = store.facts
        try:
            names, same = facts["names"], facts["same"]
            said = {key: facts[key] for key in ("tokens", "context", "text_sha256", "model_sha256")}
            unseen = tuple(facts["unseen"])
        except KeyError as error:
            raise CorruptFile(f"'{path}' does not say {error}") from error
        homes = {
            key.removeprefix(HESSIAN): store for key in store.digests if key.startswith(HESSIAN)
        }
        norms = {name: store.read(NORMS + name) for name in names}
        return cls(norms, StoredHessians(homes, same), **said, same=same, unseen=unseen)

    def _facts(self) -> dict[str, Any]:
        return {
            "names": list(self.norms),
            "tokens": self.tokens,
            "context": self.context,
            "text_sha256": self.text_sha256,
            "model_sha256": self.model_sha256,
            "same": {name: self.same.get(name, name) for name in self.norms},
            "unseen": list(self.unseen),
        }

    def _owners(self) -> list[str]:
        """One weight for each Hessian, in the order of the norms."""
        owners = [self.same.get(name, name) for name in self.norms if name in self.hessians]
        return list(dict.fromkeys(owners))

    def _hessian_digest(self, name: str) -> str:
        if isinstance(self.hessians, StoredHessians):
            return self.hessians.digest(name)
        return tensor_digest(self.hessians[name])
