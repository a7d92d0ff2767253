"""Small functions of a product module: inline assembly, or the twin's statements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..parts import WIDTH, head
from ..snippets import Snippet


@dataclass(frozen=True)
class Function:
    """One function.

    Attributes:
        head: its first line.
        doc: what it does.
        arguments: names of its arguments.
        outputs: types of its results.
        constraints: of the inline assembly.
        asm: the inline assembly; empty where ``body`` is written instead.
        body: Triton statements.
        pack: elements that one run of the assembly takes.
    """

    head: str
    doc: str
    arguments: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    constraints: str = ""
    asm: tuple[str, ...] = ()
    body: tuple[str, ...] = ()
    pack: int = 1

    @property
    def dtype(self) -> str:
        """The types of its results, as they are written."""
        if len(self.outputs) == 1:
            return self.outputs[0]
        if len(set(self.outputs)) == 1 and len(self.outputs) > 4:
            return f"({self.outputs[0]},) * {len(self.outputs)}"
        return f"({', '.join(self.outputs)})"

    @property
    def listed(self) -> str:
        """Its arguments as a list, as the assembly takes them."""
        return bracketed("", "[", self.arguments, "]", 8, room=1)


def bracketed(
    head: str, opening: str, items: Sequence[str], closing: str, indent: int, room: int = 0
) -> str:
    """Items between brackets, one a line where they are too long for one, as a formatter does.

    ``room``: columns that what follows takes.
    """
    line = f"{head}{opening}{', '.join(items)}{closing}"
    if len(line) + indent + room <= WIDTH:
        return line
    margin = " " * (indent + 4)
    each = "".join(f"{margin}{item},\n" for item in items)
    return f"{head}{opening}\n{each}{' ' * indent}{closing}"


def of_snippet(
    name: str, doc: str, s: Snippet, twin: bool, outputs: Sequence[str] | None = None
) -> Function:
    """A function that runs a snippet, element by element."""
    results = tuple(outputs or ("tl.int32",) * len(s.outputs))
    return Function(
        head=head(name, tuple(s.inputs)),
        doc=doc,
        arguments=tuple(s.inputs),
        outputs=results,
        constraints=",".join([*("=r" for _ in results), *s.inputs.values()]),
        asm=() if twin else tuple(s.ptx()),
        body=tuple(s.twin()) if twin else (),
    )


def of_body(name: str, doc: str, arguments: Sequence[str], body: Sequence[str]) -> Function:
    """A function of Triton statements, compiled or interpreted."""
    return Function(head(name, arguments), doc, tuple(arguments), body=tuple(body))
