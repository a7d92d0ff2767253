"""The .fmt text of grids that were found, with frozen values."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from ...compiler.exact import show_number
from ...compiler.hosts import HIF_HOSTS
from .alphabet import Hosted, learned_name
from .options import POLICIES, SearchOptions

if TYPE_CHECKING:
    from ...compiler.format import Format

#: Hexadecimal digits of the SHA-256 over a text that its name ends in.
HASH_DIGITS = 8


@lru_cache(maxsize=512)
def format_of(grids: tuple[Hosted, ...], options: SearchOptions) -> Format:
    """The compiled format of one or two grids; its ``source`` is the canonical text.

    Its name is that of the atoms and 8 digits of a hash over everything that decides a bit, so
    that equal finds have equal names and texts.

    Args:
        grids: in the order of their index.
        options: of the search that found them.
    """
    from ...formats import compile_text

    names = [_identifier(grid.name) for grid in grids]
    body = "\n".join(_clauses(grids, names, options))
    mark = hashlib.sha256(body.encode()).hexdigest()[:HASH_DIGITS]
    atoms = "|".join(grid.name for grid in grids)
    title = f"{atoms}^{options.block}s{options.scale.upper()}, found for a layer"
    return compile_text(f'format {"_".join(names)}_{mark} "{title}" {{\n{body}\n}}')


def _identifier(name: str) -> str:
    plain = name.removeprefix("-").lower().replace("-", "_")
    return f"neg_{plain}" if name.startswith("-") else plain


def _clauses(grids: Sequence[Hosted], names: Sequence[str], options: SearchOptions) -> list[str]:
    clauses = ['cite "SOP, arXiv:2605.14929 (pair search; atoms as their host holds them)"']
    clauses.append(f"block {options.block}")
    if options.host in HIF_HOSTS:
        clauses.append(f"host {options.host}")
    for grid, name in zip(grids, names, strict=True):
        values = ", ".join(map(show_number, grid.values))
        clauses.append(f"grid {name} = codebook {options.bits} {{ {values} }}")
        if grid.name == learned_name(options.bits):
            beside = [other for other in names if other != name]
            clauses[-1] += f" learned {{ {_recipe(beside, options)} }}"
    clauses.append(_scale(options))
    if len(grids) > 1:
        arms = ", ".join(f"{index}: {name}" for index, name in enumerate(names))
        clauses.append(f"select 1 bit at {options.place} {{ {arms} }}")
    if len(grids) > 1 or options.mirrors or options.tries:
        clauses.append(f"error {POLICIES[options.reassign]}")
    return clauses


def _recipe(beside: Sequence[str], options: SearchOptions) -> str:
    settings = ["method pair_search", *(f"beside {name}" for name in beside)]
    settings += ["source layer", f"weights {options.lloyd}", f"host {options.host}"]
    return "  ".join(settings)


def _scale(options: SearchOptions) -> str:
    settings = [f"rule {options.rule}"]
    if options.mirrors:
        settings.append("signs both")
    if options.tries:
        settings.append(f"search {options.tries}")
    if options.exponent_bits < 8:
        settings.append("shift auto")
    if options.grids == 1 and 8 < options.unsigned_bits < 12:
        # As in SOP strings: UE4M6 counts as 10 bits where no free bit is needed.
        settings.append(f"container {options.unsigned_bits}")
    return f"scale {options.scale.lower()} {{ {'  '.join(settings)} }}"
