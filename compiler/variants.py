"""A variant over its base: which clause of ``extends`` takes the place of which."""

from __future__ import annotations

from dataclasses import replace

from ..dsl.ast import Body, Cite, Clause, ScaleDecl, Setting, SideDecl, ZeroDecl


def merged_clauses(base: tuple[Clause, ...], own: tuple[Clause, ...]) -> tuple[Clause, ...]:
    """The base's clauses, each kind that the variant says in the place of the base's.

    Citations add up. What the variant says twice stays twice, for the checker to find.
    """
    said: dict[str, list[Clause]] = {}
    for clause in own:
        said.setdefault(_slot(clause), []).append(clause)
    cites = said.pop("cite", [])
    last = max((i for i, clause in enumerate(base) if isinstance(clause, Cite)), default=-1)
    out: list[Clause] = [*cites] if last < 0 else []
    replaced: set[str] = set()
    for index, clause in enumerate(base):
        slot = _slot(clause)
        if slot in said:
            first, *more = said.pop(slot)
            out += [_over(clause, first), *more]
            replaced.add(slot)
        elif slot not in replaced:
            out.append(clause)
        if index == last:
            out += cites
    return (*out, *(clause for clauses in said.values() for clause in clauses))


def _slot(clause: Clause) -> str:
    """What a clause takes the place of in a base."""
    match clause:
        case Setting(key):
            return f"setting {key.text}"
        case SideDecl(kind):
            return f"side {kind.text}"
        case Cite():
            return "cite"
        case _:
            return type(clause).__name__


def _over(base: Clause, own: Clause) -> Clause:
    """A clause over that of the base: settings of scale and zero are merged key by key."""
    match base, own:
        case ScaleDecl(), ScaleDecl():
            pass
        case ZeroDecl(), ZeroDecl() if base.kind.text == own.kind.text:
            pass
        case _:
            return own
    stored: Body | None = base.stored if own.stored is None else own.stored
    return replace(own, settings=_settings(base.settings, own.settings), stored=stored)


def _settings(
    base: tuple[Setting, ...] | None, own: tuple[Setting, ...] | None
) -> tuple[Setting, ...] | None:
    if base is None or own is None:
        return base if own is None else own
    merged = merged_clauses(base, own)
    return tuple(setting for setting in merged if isinstance(setting, Setting))
