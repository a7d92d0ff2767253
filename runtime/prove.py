"""``fmtc prove``: bounds derived, checked independently, and run through the compiled encoder.

A proof that stood the check is kept in the cache directory. When it is read again it is checked
and run again: nothing is believed for lying there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..compiler import format as compiled
from ..compiler.bounds.proof import SCHEMA, Proof, Statement, Witness
from ..compiler.bounds.summary import Bound, bounds_of
from .atomic import write_atomically
from .backend import Backend, ReferenceBackend
from .choose import backend_for
from .compile_cache import cache_directory

#: The share of a tight bound that its witness has to reach.
ENOUGH = Fraction(999, 1000)

Progress = Callable[[str], None]


class ProofFailed(RuntimeError):
    """A proof does not stand its check, or an encoder does not do what it says."""


@dataclass(frozen=True, slots=True)
class Proven:
    """The bounds of a format that were checked just now.

    Attributes:
        format: the format.
        text: the proof, as JSON.
        bounds: what it says, and how much of each bound is reached.
        backend: what ran the witnesses beside the reference.
        seconds: what the derivation took, whenever it was.
        took: what this call took.
        cached: whether the proof was found in the cache.
    """

    format: compiled.Format
    text: str
    bounds: tuple[Bound, ...]
    backend: str
    seconds: float
    took: float
    cached: bool

    @property
    def short(self) -> tuple[str, ...]:
        """The names of tight bounds that no witness comes near."""
        return tuple(
            b.name
            for b in self.bounds
            if b.tight and b.bound and (b.reached is None or b.reached < float(ENOUGH))
        )

    def values(self) -> dict[str, Any]:
        """All that is to tell, as JSON-ready values."""
        return {
            "format": self.format.name,
            "hash": self.format.content_hash,
            "seconds": round(self.took, 3),
            "derived_in": round(self.seconds, 3),
            "cached": self.cached,
            "backend": self.backend,
            "parts": sum(bound.parts for bound in self.bounds),
        }


def prove(fmt: compiled.Format, *, fresh: bool = False, progress: Progress | None = None) -> Proven:
    """Derive the bounds of a format, or find them in the cache, and check every number.

    Args:
        fmt: the format.
        fresh: derive them even where the cache has them.
        progress: is told what goes on.

    Raises:
        Unproven: no bound of such a format is known; the message says why.
        ProofFailed: the proof is wrong, or an encoder errs by more than it says.
    """
    tell = progress or (lambda _: None)
    start = time.perf_counter()
    if not fresh:
        tell("reading")
        found = _from_cache(fmt, start)
        if found is not None:
            return found
    tell("deriving")
    proof = _derived(fmt)
    tell("running")
    backend = backend_for(fmt)
    proof = replace(proof, statements=tuple(_run(fmt, backend, s) for s in proof.statements))
    tell("checking")
    text = proof.sealed()
    _check(fmt, text)
    took = time.perf_counter() - start
    proven = Proven(fmt, text, bounds_of(proof), backend.name, took, took, False)
    _remember(proven)
    return proven


def known_bounds(fmt: compiled.Format) -> tuple[Bound, ...]:
    """The bounds of a format at once: as shipped, from the cache, or derived without a check.

    What is derived here reaches nothing that is known: ``prove`` runs witnesses and checks.

    Raises:
        Unproven: no bound of such a format is known.
    """
    from ..formats.bounds import shipped_bounds, stated_bounds

    cached = None if shipped_bounds(fmt) else _from_cache(fmt, time.perf_counter())
    return stated_bounds(fmt) if cached is None else cached.bounds


def _derived(fmt: compiled.Format) -> Proof:
    from ..compiler.bounds.derive import proved
    from ..compiler.bounds.lemmas import NotProven
    from ..compiler.bounds.witness.build import witnessed

    try:
        return witnessed(fmt, proved(fmt))
    except NotProven as reason:
        raise ProofFailed(f"SymPy does not agree with the proof of '{fmt.name}': {reason}") from (
            reason
        )


def _check(fmt: compiled.Format, text: str) -> None:
    """Let the independent checker see the proof, and all lemmas be proven anew."""
    from ..compiler.bounds.checker.check import Rejected, check_sealed
    from ..compiler.bounds.lemmas import lemmas

    try:
        check_sealed(fmt, text, lemmas())
    except Rejected as reason:
        raise ProofFailed(f"the proof of '{fmt.name}' is wrong: {reason}") from reason


def _run(fmt: compiled.Format, backend: Backend, statement: Statement) -> Statement:
    """The statement with the share of its bound that its witness reaches in the encoders.

    Raises:
        ProofFailed: the bound is exceeded, or the back end differs from the reference.
    """
    witness = statement.witness
    if witness is None:
        return statement
    reached = share_of(fmt, backend, statement, witness)
    if reached != share_of(fmt, ReferenceBackend(fmt), statement, witness):
        raise ProofFailed(
            f"'{fmt.name}', {statement.name}: {backend.name} and reference decode the witness "
            "differently"
        )
    most = 1 + statement.slack / statement.bound if statement.bound else 1
    if reached > most:
        raise ProofFailed(
            f"'{fmt.name}', {statement.name}: an input errs by {float(reached):.9g} of what the "
            "proof allows"
        )
    return replace(statement, witness=replace(witness, reached=reached))


def share_of(
    fmt: compiled.Format, backend: Backend, statement: Statement, witness: Witness
) -> Fraction:
    """The share of its bound that a witness reaches in a back end, exactly.

    Raises:
        ProofFailed: the witness is not the input that its digest is of.
    """
    from ..compiler.bounds.witness.build import array_of, measured
    from ..compiler.bounds.witness.measured import outcome_of
    from ..compiler.reference import calibrate

    try:
        x = array_of(witness)
    except ValueError as reason:
        raise ProofFailed(f"'{fmt.name}', {statement.name}: {reason}") from reason
    level = calibrate(fmt, x)
    streams = backend.encode(x, level)
    decoded = backend.decode(dict(streams), x.shape[1], level)
    return measured(statement, witness, outcome_of(fmt, x, streams, decoded, level))


# -- the cache -----------------------------------------------------------------------------


def cache_file(fmt: compiled.Format) -> Path:
    """Where the proof of a format is kept."""
    return cache_directory() / "proofs" / f"{SCHEMA}-{fmt.content_hash}.json"


def _remember(proven: Proven) -> None:
    """Keep a proof; a cache that cannot be written only costs the time to derive it again."""
    kept = {"seconds": proven.seconds, "proof": json.loads(proven.text)}
    try:
        text = json.dumps(kept, separators=(",", ":"))
        write_atomically(cache_file(proven.format), text.encode())
    except OSError:
        return


def _from_cache(fmt: compiled.Format, start: float) -> Proven | None:
    """The cached proof, checked and run again; None where there is none that stands."""
    try:
        kept = json.loads(cache_file(fmt).read_text(encoding="utf-8"))
        seconds = float(kept["seconds"])
        text = json.dumps(kept["proof"], separators=(",", ":"))
        _check(fmt, text)
        backend = backend_for(fmt)
        bounds = tuple(_bound(fmt, backend, stated) for stated in kept["proof"]["statements"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ProofFailed):
        return None
    took = time.perf_counter() - start
    return Proven(fmt, text, bounds, backend.name, seconds, took, True)


def _bound(fmt: compiled.Format, backend: Backend, stated: dict[str, Any]) -> Bound:
    """One statement of a cached proof, its witness run through the back end.

    Raises:
        ProofFailed: it reaches another share than the proof says.
    """
    statement = Statement(
        measure=stated["measure"],
        regime=stated["regime"],
        kind=stated["kind"],
        bound=Fraction(stated["bound"]),
        slack=Fraction(stated["slack"]),
        tight=stated["tight"],
        domain=_pair(stated["domain"]),
        witness=_witness(stated["witness"]),
    )
    witness = statement.witness
    if witness and share_of(fmt, backend, statement, witness) != witness.reached:
        raise ProofFailed(f"'{fmt.name}', {statement.name}: the witness reaches another share")
    (bound,) = bounds_of(Proof(fmt.name, fmt.content_hash, (statement,)))
    return replace(bound, parts=sum(len(stated[k]) for k in _PARTS))


#: What a statement is the maximum of.
_PARTS = ("cells", "corners", "boxes", "moved")


def _pair(stated: Any) -> tuple[Fraction, Fraction] | None:
    return None if stated is None else (Fraction(stated[0]), Fraction(stated[1]))


def _witness(stated: dict[str, Any] | None) -> Witness | None:
    if stated is None:
        return None
    rows, columns = stated["shape"]
    top, bottom, left, right = stated["block"]
    return Witness(
        (rows, columns),
        tuple((value, count) for value, count in stated["runs"]),
        (top, bottom, left, right),
        None if stated["element"] is None else (stated["element"][0], stated["element"][1]),
        stated["digest"],
        Fraction(stated["reached"]),
    )
