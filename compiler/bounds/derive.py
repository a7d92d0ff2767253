"""Every proven bound of a format."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from ..format import Format
from ..view import view_of
from .choice.search import block_statement
from .coder import coders_of
from .moved.zeros import moved_statements
from .proof import Proof, Statement, Unproven
from .single import ANY, block_statements, element_statements
from .slack import slack


def derive(fmt: Format) -> Proof:
    """The proof of all bounds of a format.

    Raises:
        Unproven: no bound of such a format is known.
    """
    if fmt.zero is not None or fmt.scale.stored is not None:
        # Their errors may not all be at their worst in one block: near the suprema, no more.
        moved = (replace(s, tight=s.measure == "zero") for s in moved_statements(fmt))
        return Proof(fmt.name, fmt.content_hash, tuple(moved))
    coders = coders_of(fmt)
    if any(not coder.positive or not coder.negative for coder in coders):
        raise Unproven(
            f"no bound is known of '{fmt.name}': a grid has values of one sign alone, and elements "
            "of the other may be of any size"
        )
    statements = list(element_statements(fmt, coders))
    if len(coders) == 1:
        statements += block_statements(fmt, coders[0])
    else:
        statements += [s for s in (block_statement(fmt),) if s is not None]
    statements.append(_zero(fmt))
    return Proof(fmt.name, fmt.content_hash, tuple(statements))


def proved(fmt: Format) -> Proof:
    """The same with what SymPy decided: the shape of the objectives, and every inequality.

    Raises:
        NotProven: SymPy does not agree.
    """
    from .lemmas import decide, lemmas

    proof = derive(fmt)
    decide(proof)
    return replace(proof, lemmas=lemmas())


def _zero(fmt: Format) -> Statement:
    """What an element of an all-zero block decodes to, in units of the second level."""
    number = fmt.scale.word.number
    stored = number.magnitude(fmt.scale.zero_block) or Fraction(0)
    view = view_of(fmt)
    codes = [view.grids[i].zero_code for i in range(len(fmt.grids))]
    found = [grid.values[code] for grid, code in zip(fmt.grids, codes, strict=True)]
    bound = stored * min(abs(value) for value in found if value is not None)
    return Statement("zero", "zero", ANY, bound, slack(fmt, "zero", bound))
