"""Recipes: all that decides the bytes of a checkpoint, beside the model and the text.

A recipe is made from what a user says: the name of a format, a SOP string, or a budget; it is
written into the run's folder, so that a run is never gone on with by another one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from ...compiler.format import SEMANTICS_VERSION, Format
from ...dsl.sop import is_sop
from ...formats import compile_text, load
from ..errors import RefusedInput
from ..grids.metrics import METRICS
from ..grids.options import SearchOptions
from ..plan.budget import read_bpw, show_bpw
from ..plan.candidates import CORRECTIONS, candidate_texts, default_promotions, stated

#: By the bits of a code and the number of grids: what takes as many bits as what is searched for.
_ALIKE = {
    (4, 2): "NF4|SH4",
    (4, 1): "NF4",
    (5, 2): "NF5|SH5",
    (5, 1): "NF5",
    (3, 2): "INT3|E2M0",
    (3, 1): "INT3",
    (2, 1): "INT2",
}

#: The atom that is learned for every unit anew.
LEARNED = "DD4"

_HEAD = re.compile(r"(?P<atoms>.+?)(?:\^(?P<block>\d+))?(?:s(?P<scale>[A-Z]\w*))?(?:[+.].*)?")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is done to every model that it is given.

    Attributes:
        name: what the user called it.
        base: the .fmt text that every unit is stored in at least; with a search, one of the same
            size, which no unit is stored in.
        search: how a pair of grids is found for each unit; None: the base is for all.
        bpw: stored bits per weight that are never exceeded; None: every unit is stored in the
            base, with all corrections.
        promotions: formats that units may be promoted to within the budget.
        corrections: ``OPQ``, ``Wr``; within a budget, units may have them.
        metric: what the allocation decides by: ``acos``, ``mse`` or ``wmse``.
        tokens: of text that channel norms are taken from.
        context: tokens of a window.
        fuse: q, k and v share one choice, and gate and up.
    """

    name: str
    base: str
    search: SearchOptions | None = None
    bpw: Fraction | None = None
    promotions: tuple[str, ...] = ()
    corrections: tuple[str, ...] = ()
    metric: str = "wmse"
    tokens: int = 8192
    context: int = 512
    fuse: bool = True

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise RefusedInput(f"there is no metric '{self.metric}': {', '.join(METRICS)}")
        if self.context < 2 or self.tokens < self.context:
            raise RefusedInput(
                f"{self.tokens} tokens in windows of {self.context}: windows have 2 tokens or "
                "more, and there is at least one"
            )
        if self.bpw is None and self.promotions:
            raise RefusedInput(
                f"promotions ({', '.join(self.promotions)}) need a budget: say --bpw 4.7, or "
                "+knap0.10 in the SOP string"
            )
        if self.bpw is not None and self.bpw < compile_text(self.base).exact_bpw:
            raise RefusedInput(
                f"a budget of {show_bpw(self.bpw)} bits per weight is below the "
                f"{show_bpw(compile_text(self.base).exact_bpw)} that the base "
                f"'{self.name}' takes"
            )
        candidate_texts(self.base, self.promotions, self.corrections)

    # -- made from -------------------------------------------------------------------------

    @staticmethod
    def of(
        format_name: str | Path | None = None,
        *,
        bpw: str | float | Fraction | None = None,
        search: SearchOptions | None = None,
        promotions: Sequence[str] | None = None,
        corrections: Sequence[str] | None = None,
        **others: Any,
    ) -> Recipe:
        """A recipe from what a user says.

        Args:
            format_name: a shipped name, a .fmt file or a SOP string; None: a pair of grids is
                searched for each unit, over the whole alphabet.
            bpw: the budget; None: that of the SOP string, if it has one.
            search: options of the search; what a SOP string says of atoms, block and scale
                comes first.
            promotions: what units may be promoted to; None: what the SOP string says, or with a
                budget the usual ones.
            corrections: None: what the SOP string says, or with a budget both.
            others: ``metric``, ``tokens``, ``context``, ``fuse``.

        Raises:
            RefusedInput: the parts do not fit together.
            UnknownFormat: there is no such format.
            FormatError: a format or SOP string has faults.
        """
        if format_name is None:
            return _searched(bpw, search, promotions, corrections, others)
        said = stated(format_name)
        budget = said.bpw if bpw is None else read_bpw(bpw)
        pair = _learned_pair(str(format_name), search)
        if budget is None and pair is None and not corrections:
            whole = load(format_name)
            base = whole if not promotions and not said.promotions else compile_text(said.base)
            plain = said.promotions if promotions is None else tuple(promotions)
            return Recipe(str(format_name), base.source, None, None, plain, (), **others)
        return Recipe(
            str(format_name),
            said.base,
            pair,
            budget,
            _promotions(said.base, budget, promotions, said.promotions),
            _corrections(bpw, corrections, said.corrections),
            **others,
        )

    @staticmethod
    def from_sop(text: str) -> Recipe:
        """A recipe from a SOP string such as ``NF4|DD4^16sUE4M3+knap0.10.OPQ.Wr``.

        Raises:
            RefusedInput: it is no SOP string.
            FormatError: it has faults.
        """
        if not is_sop(text):
            raise RefusedInput(f"'{text}' is no SOP string such as 'NF4|DD4^16sUE4M3+knap0.10'")
        return Recipe.of(text)

    # -- what it means -----------------------------------------------------------------------

    @property
    def base_format(self) -> Format:
        """The base, compiled."""
        return compile_text(self.base)

    @property
    def is_fixed(self) -> bool:
        """Whether every unit is stored in one format that is known beforehand."""
        return self.search is None and self.bpw is None and not self.corrections

    @property
    def uses_norms(self) -> bool:
        """Whether channel norms decide any byte."""
        if not self.is_fixed:
            return True
        base = self.base_format
        weighted = base.policies.error in ("weighted", "cosine")
        return weighted or any(side.kind == "wr" for side in base.sides)

    def candidates(self, base: str) -> tuple[tuple[str, str], ...]:
        """What a unit may be stored in, as labels and .fmt texts, its own base being ``base``.

        Without a budget that is one text: the base, with all corrections.
        """
        if self.is_fixed:
            return (("base", base),)
        found = candidate_texts(base, self.promotions, self.corrections)
        if self.bpw is not None:
            return found
        return (max(found, key=lambda item: item[0].count(".")),)

    # -- as JSON -----------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """JSON values that ``from_json`` reads."""
        said = {f.name: getattr(self, f.name) for f in fields(self)}
        said["bpw"] = None if self.bpw is None else str(self.bpw)
        said["search"] = None if self.search is None else _plain(asdict(self.search))
        return {key: list(v) if isinstance(v, tuple) else v for key, v in said.items()}

    @staticmethod
    def from_json(said: Mapping[str, Any]) -> Recipe:
        """The recipe that ``to_json`` gave.

        Raises:
            RefusedInput: it is none.
        """
        try:
            values = _tuples(said)
            if values["search"] is not None:
                values["search"] = SearchOptions(**_tuples(values["search"]))
            if values["bpw"] is not None:
                values["bpw"] = Fraction(values["bpw"])
            return Recipe(**values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RefusedInput(f"this is no recipe of a run: {error}") from error

    def summary(self) -> dict[str, Any]:
        """What a checkpoint says of how it was made, without the texts that it holds anyway."""
        said = self.to_json()
        del said["base"]
        return {key: value for key, value in said.items() if value not in (None, [])}

    def fingerprint(self) -> dict[str, Any]:
        """What a run must have in common with the one it goes on with."""
        total = hashlib.sha256()
        for label, text in self.candidates(self.base):
            total.update(f"{label} {compile_text(text).content_hash}\0".encode())
        meaning = total.hexdigest()[:16]
        return {**self.to_json(), "formats": meaning, "semantics": SEMANTICS_VERSION}


def _searched(
    bpw: Any,
    search: SearchOptions | None,
    promotions: Sequence[str] | None,
    corrections: Sequence[str] | None,
    others: Mapping[str, Any],
) -> Recipe:
    """A recipe without a format: a pair for each unit, from the alphabet."""
    options = search or SearchOptions()
    alike = _ALIKE.get((options.bits, options.grids))
    if alike is None:
        raise RefusedInput(f"no run searches {options.grids} grids of {options.bits} bits")
    tail = f"^{options.block}s{options.scale}"
    base = stated(f"{alike}{tail}").base
    budget = None if bpw is None else read_bpw(bpw)
    if corrections is None:
        corrections = CORRECTIONS if budget is not None else ()
    wanted = _promotions(base, budget, promotions, ())
    return Recipe(f"search{tail}", base, options, budget, wanted, tuple(corrections), **others)


def _promotions(
    base: str, budget: Fraction | None, asked: Sequence[str] | None, said: Sequence[str]
) -> tuple[str, ...]:
    if asked is not None:
        return tuple(asked)
    if said or budget is None:
        return tuple(said)
    return default_promotions(base)


def _corrections(bpw: object, asked: Sequence[str] | None, said: Sequence[str]) -> tuple[str, ...]:
    """Those that are asked for, or said in the string, or all within a budget of their own."""
    if asked is not None:
        return tuple(asked)
    return tuple(said) if said or bpw is None else CORRECTIONS


def _learned_pair(name: str, search: SearchOptions | None) -> SearchOptions | None:
    """The search that a SOP string with the learned atom asks for; None for any other format."""
    match = _HEAD.fullmatch(name) if is_sop(name) else None
    if match is None:
        return None
    atoms = tuple(match["atoms"].upper().split("|"))
    if LEARNED not in atoms:
        return None
    said: dict[str, Any] = {"pair": atoms, "grids": len(atoms), "scale": match["scale"] or "FP32"}
    said["block"] = int(match["block"] or 16)
    return replace(search or SearchOptions(), **said)


def _plain(value: Any) -> Any:
    """Values that JSON has."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Fraction) else value


def _tuples(said: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in said.items()}
