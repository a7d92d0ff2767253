"""Imports, atoms and ``extends``: from a file that names others to one that stands alone.

Nothing here reads a disk. A ``Loader`` turns a reference into text; who may read what is the
loader's business (see ``fmtc.formats``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar, cast

from ..dsl.ast import (
    AtomDecl,
    Clause,
    File,
    FormatDecl,
    GridDecl,
    ScaleDecl,
    Span,
    Text,
    ZeroDecl,
)
from ..dsl.diagnostics import Diagnostic
from ..dsl.parser import parse_partial
from .atoms import ATOM_KINDS
from .floats import named_float
from .report import Report
from .variants import merged_clauses

#: Longest way from a file over files that it names to the last of them.
MAX_DEPTH = 8
#: Most files that one file may lead to, itself counted.
MAX_FILES = 32
#: Most atoms in a row of which each is made of the next.
MAX_ROW = 32


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file that a reference led to.

    Attributes:
        text: what it holds.
        filename: how messages call it.
        origin: the same string whenever it is the same file; the loader is given it back with
            the references that the file makes.
    """

    text: str
    filename: str
    origin: str


class LoadError(Exception):
    """A reference that leads to no file that may be read."""

    def __init__(self, message: str, hint: str | None = None, code: str = "E0501") -> None:
        self.message = message
        self.hint = hint
        self.code = code
        super().__init__(message)


#: (reference, "import" or "extends", origin of the file that makes it) -> file, or LoadError.
Loader = Callable[[str, str, str], Loaded]


@dataclass(frozen=True, slots=True)
class Flat:
    """A format on its own.

    Attributes:
        declaration: the format with its base merged in; ``base`` is None.
        atoms: what a grid's kind may name besides the built-in kinds, every atom behind those
            that it uses. An earlier grid of the format hides an atom of the same name.
        others: further formats of the same file, which is one too many, in the same form.
    """

    declaration: FormatDecl
    atoms: Mapping[str, AtomDecl]
    others: tuple[FormatDecl, ...] = ()


@dataclass(frozen=True, slots=True)
class Elsewhere(Span):
    """The place of the reference in the entry file that led to ``inner`` in another file."""

    filename: str
    inner: Span


def flatten(file: File, filename: str, loader: Loader | None, report: Report) -> Flat | None:
    """Read what a file imports and extends, and merge it.

    Args:
        file: the parsed file.
        filename: its name, which is also its origin for the loader.
        loader: reads other files; None where there are none to read.
        report: takes the faults. Those in other files have an ``Elsewhere`` span: ``placed``
            turns them into faults of the reference.

    Returns:
        The first format, or None when there is none or when a file is missing from the whole.
    """
    reader = _Reader(loader, report, [(filename, filename)])
    scope = reader.scope(file, filename)
    chains = [reader.chain(item, scope) for item in file.formats]
    if reader.broken or not chains:
        return None
    names = _Names(report, scope)
    for inner in reader.scopes.values():
        names.reserve((), inner)
    for declaration, inner in (link for chain in chains for link in chain):
        names.reserve(declaration.clauses, inner)
    flats = [_flat(chain, names) for chain in chains]
    for atom in scope.values():
        names.of(atom)
    return None if names.refused else Flat(flats[0], names.atoms, tuple(flats[1:]))


def self_contained(flat: Flat) -> File:
    """The format with the atoms that it uses: no imports, no base, the same meaning."""
    used: set[str] = set()

    def note(kind: str) -> str:
        if kind in flat.atoms and kind not in used:
            used.add(kind)
            note(flat.atoms[kind].atom.kind.text)
        return kind

    _relinked(flat.declaration.clauses, note)
    atoms = tuple(flat.atoms[name] for name in sorted(used))
    return File((flat.declaration,), atoms=atoms)


def placed(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Faults of other files as faults of the references that led there, with both places."""
    return tuple(_placed(fault) for fault in diagnostics)


def _placed(fault: Diagnostic) -> Diagnostic:
    span = fault.span
    if not isinstance(span, Elsewhere):
        return fault
    here = Span(span.line, span.column, span.end_line, span.end_column)
    where = f"{span.filename}:{span.inner.line}:{span.inner.column}"
    return replace(fault, message=f"{where}: {fault.message}", span=here)


# -- reading ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Atom:
    """An atom, and what names mean in the file that declares it."""

    declaration: AtomDecl
    scope: Mapping[str, _Atom]


_Scope = Mapping[str, _Atom]
#: A format and its bases, each with what names mean in its file.
_Chain = list[tuple[FormatDecl, _Scope]]


@dataclass(slots=True)
class _Reader:
    """Follows references. ``stack`` is the way to the current file: (origin, filename)."""

    loader: Loader | None
    report: Report
    stack: list[tuple[str, str]]
    broken: bool = False
    files: dict[str, File] = field(default_factory=dict)
    scopes: dict[str, _Scope] = field(default_factory=dict)

    def scope(self, file: File, origin: str) -> _Scope:
        """What names mean in a file: its own atoms, and those of the files that it imports."""
        if origin in self.scopes:
            return self.scopes[origin]
        scope: dict[str, _Atom] = {}
        for item in file.imports:
            for name, atom in self._imported(item.source).items():
                if scope.setdefault(name, atom) is not atom:
                    self.report.add(
                        "E0208",
                        f"a second atom is called '{name}'",
                        item.source.span,
                        hint="import one of the two files, or give the atom another name in its",
                    )
        for declaration in file.atoms:
            self._declare(declaration, scope)
        self.scopes[origin] = scope
        return scope

    def _declare(self, declaration: AtomDecl, scope: dict[str, _Atom]) -> None:
        name = declaration.name
        if name.text in ATOM_KINDS or named_float(name.text) is not None:
            self.report.add(
                "E0504",
                f"'{name.text}' is a built-in kind of grid",
                name.span,
                hint=f"give the atom a name of its own, such as 'my_{name.text}'",
            )
        elif name.text in scope:
            self.report.add(
                "E0208",
                f"a second atom is called '{name.text}'",
                name.span,
                hint="give each atom a name of its own",
            )
        else:
            scope[name.text] = _Atom(declaration, scope)

    def _imported(self, reference: Text) -> dict[str, _Atom]:
        """The atoms that a file declares itself."""
        opened = self._follow(reference, "import")
        if opened is None:
            return {}
        origin, file = opened
        scope = self.scope(file, origin)
        self.stack.pop()
        own = {declaration.name.text for declaration in file.atoms}
        return {name: atom for name, atom in scope.items() if name in own}

    def chain(self, declaration: FormatDecl, scope: _Scope) -> _Chain:
        """A format and its bases, the format first."""
        opened = declaration.base and self._follow(declaration.base, "extends")
        if not opened:
            return [(declaration, scope)]
        origin, file = opened
        bases = self.chain(file.formats[0], self.scope(file, origin))
        self.stack.pop()
        return [(declaration, scope), *bases]

    def _follow(self, reference: Text, kind: str) -> tuple[str, File] | None:
        """Origin and tree of the file that a reference means, which is then the current file."""
        try:
            loaded = self._load(reference, kind)
            file = self.files.get(loaded.origin) or _parsed(loaded, reference)
            self.files[loaded.origin] = file
            _check_holds(file, kind, loaded.filename, reference)
        except LoadError as error:
            self.broken = True
            self.report.add(error.code, error.message, reference.span, hint=error.hint)
            return None
        self.stack.append((loaded.origin, loaded.filename))
        return loaded.origin, file

    def _load(self, reference: Text, kind: str) -> Loaded:
        if self.loader is None:
            raise LoadError(f"'{reference.text}' cannot be read: there are no other files here")
        loaded = self.loader(reference.text, kind, self.stack[-1][0])
        way = [origin for origin, _ in self.stack]
        if loaded.origin in way:
            circle = [name for _, name in self.stack[way.index(loaded.origin) :]]
            shown = " -> ".join([*circle, circle[0]])
            raise LoadError(f"these files lead in a circle: {shown}", code="E0503")
        if len(way) > MAX_DEPTH:
            raise LoadError(
                f"the way to '{loaded.filename}' leads over {len(way)} files",
                f"at most {MAX_DEPTH} are followed: name the files that you need directly",
                "E0503",
            )
        if loaded.origin not in self.files and len(self.files) + 1 >= MAX_FILES:
            raise LoadError(
                f"'{loaded.filename}' is one file too many",
                f"a file may lead to {MAX_FILES - 1} others: put some together",
                "E0503",
            )
        return loaded


def _parsed(loaded: Loaded, reference: Text) -> File:
    parsed = parse_partial(loaded.text)
    if not parsed.diagnostics:
        return _moved(parsed.file, reference.span, loaded.filename)
    first, count = parsed.diagnostics[0], len(parsed.diagnostics)
    place = f"{loaded.filename}:{first.span.line}:{first.span.column}"
    more = f" (the first of {count} faults there)" if count > 1 else ""
    raise LoadError(f"{place}: {first.message}{more}", first.hint, "E0501")


def _check_holds(file: File, kind: str, filename: str, reference: Text) -> None:
    """Whether a file has what it is named for: atoms to import, or one format to extend."""
    if kind == "import" and not file.atoms:
        hint = f'to build on its format, write: extends "{reference.text}"'
        raise LoadError(f"'{filename}' declares no atom", hint if file.formats else None, "E0501")
    if kind == "extends" and len(file.formats) != 1:
        count = len(file.formats) or "no"
        hint = f'for its atoms, write: import "{reference.text}"'
        raise LoadError(
            f"'{filename}' holds {count} format{'s' * bool(file.formats)}",
            hint if file.atoms and not file.formats else None,
            "E0501",
        )


_Node = TypeVar("_Node")


def _moved(node: _Node, reference: Span, filename: str) -> _Node:
    """The tree of another file with every span at the reference to it."""
    if isinstance(node, Span):
        place = (reference.line, reference.column, reference.end_line, reference.end_column)
        return cast(_Node, Elsewhere(*place, filename, node))
    if isinstance(node, tuple):
        return cast(_Node, tuple(_moved(item, reference, filename) for item in node))
    if not is_dataclass(node) or isinstance(node, type):
        return node
    changed: dict[str, Any] = {
        item.name: _moved(getattr(node, item.name), reference, filename) for item in fields(node)
    }
    return replace(node, **changed)


# -- names -----------------------------------------------------------------------------


class _Names:
    """Gives every atom a name that nothing else in the flat file has.

    The atoms that the entry file sees keep theirs. One that only a base or another atom sees
    keeps its own too, unless the entry file means something else by it.
    """

    def __init__(self, report: Report, scope: _Scope) -> None:
        self.atoms: dict[str, AtomDecl] = {}
        self.refused = False
        self._report = report
        self._entry = scope
        self._names: dict[_Atom, str] = {}
        self._taken = set(scope)
        self._grids: set[str] = set()

    def reserve(self, clauses: tuple[Clause, ...], scope: _Scope) -> None:
        """Keep free what a file calls its grids, and what it names without having it."""
        self._grids |= {c.name.text for c in clauses if isinstance(c, GridDecl)}
        _relinked(clauses, lambda kind: self._reserve(kind, scope))
        for atom in scope.values():
            self._reserve(atom.declaration.atom.kind.text, atom.scope)

    def _reserve(self, kind: str, scope: _Scope) -> str:
        if kind not in scope:
            self._taken.add(kind)
        return kind

    def of(self, atom: _Atom) -> str:
        """The name of an atom, which then stands in ``atoms`` behind those that it is made of."""
        row = self._row(atom)
        for item in reversed(row):
            if item not in self._names:
                self._add(item)
        return self._names[atom] if row else atom.declaration.name.text

    def _row(self, atom: _Atom) -> list[_Atom]:
        """An atom, the one that it is made of, and so on; empty after noting that it never ends."""
        row: list[_Atom] = []
        following: _Atom | None = atom
        while following is not None:
            if following in row or len(row) == MAX_ROW:
                word = following.declaration.name
                why = "is made of itself" if following in row else "ends too long a row of atoms"
                if not self.refused:
                    self._report.add("E0503", f"the atom '{word.text}' {why}", word.span)
                self.refused = True
                return []
            row.append(following)
            following = following.scope.get(following.declaration.atom.kind.text)
        return row

    def _add(self, atom: _Atom) -> None:
        declaration = atom.declaration
        name, inner = declaration.name.text, declaration.atom
        if self._entry.get(name) is not atom:
            name = self._free(name)
        below = atom.scope.get(inner.kind.text)
        if below is not None:
            inner = replace(inner, kind=replace(inner.kind, text=self._names[below]))
        self._taken.add(name)
        self._names[atom] = name
        word = replace(declaration.name, text=name)
        self.atoms[name] = replace(declaration, name=word, atom=inner)

    def _free(self, name: str) -> str:
        if name not in self._taken:
            return name
        number = 2
        while f"{name}_{number}" in self._taken | self._grids:
            number += 1
        return f"{name}_{number}"


def _relinked(clauses: tuple[Clause, ...], rename: Callable[[str], str]) -> tuple[Clause, ...]:
    """Clauses with the kinds of their grids renamed, but for those that name an earlier grid."""
    grids: set[str] = set()
    out: list[Clause] = []
    for clause in clauses:
        done = clause
        if isinstance(clause, GridDecl):
            kind = clause.atom.kind
            if kind.text not in grids:
                word = replace(kind, text=rename(kind.text))
                done = replace(clause, atom=replace(clause.atom, kind=word))
            grids.add(clause.name.text)
        elif isinstance(clause, ScaleDecl | ZeroDecl) and clause.stored is not None:
            inner = _relinked(clause.stored.clauses, rename)
            done = replace(clause, stored=replace(clause.stored, clauses=inner))
        out.append(done)
    return tuple(out)


# -- merging ---------------------------------------------------------------------------


def _flat(chain: _Chain, names: _Names) -> FormatDecl:
    """The formats of a chain merged into its first."""

    def linked(declaration: FormatDecl, scope: _Scope) -> FormatDecl:
        def rename(kind: str) -> str:
            return names.of(scope[kind]) if kind in scope else kind

        return replace(declaration, clauses=_relinked(declaration.clauses, rename))

    flats = [linked(declaration, scope) for declaration, scope in chain]
    merged = flats[-1]
    for variant in reversed(flats[:-1]):
        merged = replace(
            variant,
            title=variant.title or merged.title,
            clauses=merged_clauses(merged.clauses, variant.clauses),
        )
    return replace(merged, base=None)
