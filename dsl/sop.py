"""SOP format strings, such as ``NF4|DD4^16sUE4M3+knap0.10.OPQ.Wr``, read as .fmt files.

The notation of SOP (arXiv:2605.14929): ``WFMT|WFMT...[^N][sSFMT][+PFMT][.OPQ<q>][.Wr<rho>]``.
Element atoms, of which each block picks one; the block's elements, 16 unless said, 0 for the
whole tensor; the scale word; what layers are promoted to; outliers kept, residuals kept.

What the notation leaves open is read so: scales follow ``absmax``; words of fewer than 8
exponent bits have SOP's shift per layer; without a scale word, scales are fp32; the number
behind ``.OPQ`` is a quantile below 1 and a threshold in standard deviations from 1 up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from .ast import (
    Arm,
    Atom,
    AtomDecl,
    Call,
    Cite,
    Clause,
    File,
    FormatDecl,
    GridDecl,
    Import,
    Number,
    ScaleDecl,
    SelectDecl,
    Setting,
    SideDecl,
    Span,
    Text,
    Word,
)
from .diagnostics import Diagnostic, FormatError, nearest

#: Longest string that is read; the longest in use have some 40 characters.
MAX_SOP_LENGTH = 200
MAX_GRIDS = 16

#: What an atom is called in a string, and the file and the name of the atom that it imports.
_IMPORTED = {
    "NF4": "nf4",
    "NF5": "nf5",
    "SH4": "sh4",
    "SH5": "sh5",
    "DD4": "dd4",
    "MPO2": "mpo2",
    "SPLIT87": "split87",
    "BOF4": "bof4",
    "BOF4-S": "bof4s",
    "AF4": "af4",
    "IQ4_NL": "iq4_nl",
}
#: Atoms that Lloyd's method makes for a block length, which their names then say: ``bof4_i32``.
_BY_BLOCK = {"bof4": (8, 32, 64, 128), "bof4s": (8, 32, 64, 128)}
_BUILT_IN = ("HIF7", "HIF8")
_SOME_ATOMS = (*_IMPORTED, *_BUILT_IN, "E2M1", "E2M3", "E3M2", "E4M3", "INT4", "INT8")
_SOME_WORDS = ("UE4M3", "UE4M4", "UE4M6", "UE5M7", "S1E5M5", "E4M3", "UE8M0", "FP32", "BF16")

_MARK = re.compile(r"[\^+]|[0-9A-Z]s[A-Z]|\.(?:OPQ|Wr)")
_SHAPE = re.compile(r"-?[A-Za-z][-A-Za-z0-9_|^+.]*")
#: An atom ends before the ``s`` of a scale, which a capital follows.
_ATOM = re.compile(r"(-?)((?:(?!s[A-Z])\w)+(?:-[A-Z]+)?)", re.ASCII)
_WORD = re.compile(r"s([A-Z]\w*)", re.ASCII)
_DIGITS = re.compile(r"[0-9]+")
_DECIMAL = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_FLOAT = re.compile(r"(S0|S1|U|)E([1-9]\d?)M(\d{1,2})")
_INT = re.compile(r"INT([1-9]\d?)")
#: Of every number of select bits: where there is room for them.
_ROOMIER = {
    1: "take UE4M3 (8 bits) or S1E5M5 (12 bits)",
    2: "take S0E5M5 (12 bits)",
    3: "take S0E4M5 (12 bits)",
    4: "no scale word has room for 4 bits: write a .fmt file, with 'select 4 bits at field'",
}
_ALIASES = {"FP32": "E8M23", "BF16": "E8M7", "FP16": "E5M10"}


def is_sop(text: str) -> bool:
    """Whether a text is meant for a SOP string: never for a name such as ``nf4``, or a path."""
    if len(text) > MAX_SOP_LENGTH or text.endswith(".fmt") or not _SHAPE.fullmatch(text):
        return False
    return "|" in text or bool(text.lstrip("-")[:1].isupper() and _MARK.search(text))


def parse_sop(text: str, filename: str = "<SOP string>") -> File:
    """The .fmt file that a SOP string stands for; the spans of its nodes lie in the string.

    Raises:
        FormatError: with the faults of the string: text that cannot stand there, an unknown
            atom or scale word, an atom that stands twice, or a scale word without room for
            the bits that select a grid.
    """
    faults: list[Diagnostic] = []
    if len(text) > MAX_SOP_LENGTH:
        message = f"the string has {len(text)} characters"
        faults.append(Diagnostic("E0105", message, Span(1, 1, 1, 2), f"at most {MAX_SOP_LENGTH}"))
        raise FormatError(faults, text, filename)
    parts = _Reader(text, faults).read()
    file = None if faults else _file(text, parts, faults)
    if file is None or faults:
        raise FormatError(faults, text, filename)
    return file


@dataclass(slots=True)
class _Parts:
    """What stands in a string; ``atoms`` have a minus in ``text`` where they are negated."""

    atoms: list[Word]
    block: Number | None = None
    scale: Word | None = None
    promote: Setting | None = None
    sides: tuple[SideDecl, ...] = ()


class _Stop(Exception):
    """What follows in a string cannot be read."""


class _Reader:
    """Reads a string from left to right; faults behind which it can go on are collected."""

    def __init__(self, text: str, faults: list[Diagnostic], start: int = 0, stop: int = -1) -> None:
        self.text = text
        self.faults = faults
        self.at = start
        self.stop = len(text) if stop < 0 else stop

    def read(self, promoted: bool = False) -> _Parts:
        """The parts up to the end; of what is ``promoted`` to, that is atoms, block and scale."""
        parts = _Parts([])
        try:
            self._read(parts, promoted)
        except _Stop:
            return parts
        if len(parts.atoms) > MAX_GRIDS:
            self._fault("E0101", f"more than {MAX_GRIDS} atoms", parts.atoms[MAX_GRIDS].span)
        return parts

    def _read(self, parts: _Parts, promoted: bool) -> None:
        parts.atoms.append(self._atom())
        while self._take("|"):
            parts.atoms.append(self._atom())
        if self._take("^"):
            parts.block = self._number(_DIGITS, "the elements of a block, such as ^32, or ^0")
        if self._peek("s"):
            parts.scale = self._scale()
        if not promoted:
            if self._take("+"):
                parts.promote = self._promotion()
            parts.sides = self._sides()
        if self.at < self.stop:
            rest = self.text[self.at : self.stop]
            self._fail(f"unexpected '{rest}'", self._expected(parts, promoted), len(rest))

    def _expected(self, parts: _Parts, promoted: bool) -> str:
        """What may follow the parts that were read."""
        follows = {
            "'|' and an atom": not (parts.block or parts.scale or parts.promote or parts.sides),
            "'^' and a block": not (parts.block or parts.scale or parts.promote or parts.sides),
            "'s' and a scale word": not (parts.scale or parts.promote or parts.sides),
            "'+knap0.10' or '+' and a format": not (promoted or parts.promote or parts.sides),
            "'.OPQ'": not promoted and all(side.kind.text != "opq" for side in parts.sides),
            "'.Wr'": not promoted and all(side.kind.text != "wr" for side in parts.sides),
        }
        return ", ".join(what for what, may in follows.items() if may) or "the end"

    # -- parts -------------------------------------------------------------------------

    def _atom(self) -> Word:
        match = _ATOM.match(self.text, self.at, self.stop)
        if match is None:
            self._fail("an atom is missing here", "an atom such as NF4, HIF7 or E2M3")
        word = Word(match[0].upper(), self._span(match.start(), match.end()))
        self.at = match.end()
        if not _is_atom(match[2].upper()):
            hint = _did_you_mean(match[2], _SOME_ATOMS)
            expected = ", ".join((*_IMPORTED, *_BUILT_IN)) + ", a float ExMy or INTn"
            self._fault("E0202", f"there is no atom '{match[2]}'", word.span, expected, hint)
        return word

    def _scale(self) -> Word:
        match = _WORD.match(self.text, self.at, self.stop)
        if match is None:
            self._fail("a scale word is missing behind 's'", "a word such as UE4M4 or S1E5M5")
        word = Word(match[1], self._span(match.start(1), match.end()))
        self.at = match.end()
        if _float(word.text) is None:
            hint = _did_you_mean(word.text, _SOME_WORDS)
            expected = "[S0|S1|U]ExMy, FP32, BF16 or FP16"
            self._fault("E0203", f"there is no scale word '{word.text}'", word.span, expected, hint)
        return word

    def _promotion(self) -> Setting:
        start = self.at
        if self._peek("knap"):
            self.at += len("knap")
            bits = self._number(_DECIMAL, "the added bits per weight, such as +knap0.10")
            function = Word("knap", self._span(start, start + len("knap")))
            span = self._span(start, self.at)
            return Setting(Word("promote", span), Call(function, (bits,), span), span)
        ends = [self.text.find(sign, start, self.stop) for sign in (".OPQ", ".Wr")]
        stop = min((end for end in ends if end >= 0), default=self.stop)
        _Reader(self.text, self.faults, start, stop).read(promoted=True)
        self.at = stop
        span = self._span(start, stop)
        return Setting(Word("promote", span), Text(self.text[start:stop], span), span)

    def _sides(self) -> tuple[SideDecl, ...]:
        sides: dict[str, SideDecl] = {}
        while self._peek(".OPQ") or self._peek(".Wr"):
            start = self.at
            kind = "opq" if self._take(".OPQ") else "wr"
            self._take(".Wr" if kind == "wr" else "")
            settings = None
            match = _DECIMAL.match(self.text, self.at, self.stop)
            if match:
                settings = (self._side_setting(kind, match),)
                self.at = match.end()
            span = self._span(start, self.at)
            if kind in sides:
                self._fault("E0208", f"'{self.text[start : start + 3]}' stands twice", span)
            sides[kind] = SideDecl(Word(kind, span), settings, span)
        return tuple(sides.values())

    def _side_setting(self, kind: str, match: re.Match[str]) -> Setting:
        span = self._span(match.start(), match.end())
        key = "fraction" if kind == "wr" else "quantile" if float(match[0]) < 1 else "threshold"
        return Setting(Word(key, span), Number(match[0], span), span)

    # -- characters --------------------------------------------------------------------

    def _peek(self, sign: str) -> bool:
        return self.text.startswith(sign, self.at, self.stop)

    def _take(self, sign: str) -> bool:
        found = self._peek(sign)
        self.at += len(sign) * found
        return found

    def _number(self, shape: re.Pattern[str], what: str) -> Number:
        match = shape.match(self.text, self.at, self.stop)
        if match is None:
            self._fail("a number is missing here", what)
        self.at = match.end()
        return Number(match[0], self._span(match.start(), match.end()))

    def _span(self, start: int, stop: int) -> Span:
        return Span(1, start + 1, 1, stop + 1)

    def _fault(
        self, code: str, message: str, span: Span, expected: str = "", hint: str | None = None
    ) -> None:
        self.faults.append(Diagnostic(code, message, span, expected or None, hint))

    def _fail(self, message: str, expected: str, length: int = 1) -> NoReturn:
        self._fault("E0101", message, self._span(self.at, self.at + length), expected)
        raise _Stop


def _did_you_mean(word: str, names: tuple[str, ...]) -> str | None:
    match = nearest(word, [name.lower() for name in names])
    return f"did you mean '{match.upper()}'?" if match else None


def _float(name: str) -> tuple[bool, int, int] | None:
    """Sign, exponent bits and mantissa bits of a float: a bare E8M0 has no sign (OCP)."""
    match = _FLOAT.fullmatch(_ALIASES.get(name, name))
    if match is None or not int(match[2]) <= 8 or not int(match[3]) <= 23:
        return None
    signed = match[1] in ("", "S1") and (match[2], match[3]) != ("8", "0")
    return signed, int(match[2]), int(match[3])


def _is_atom(name: str) -> bool:
    known = name in _IMPORTED or name in _BUILT_IN or _INT.fullmatch(name)
    return bool(known) or (name not in _ALIASES and _float(name) is not None)


# -- the file that a string stands for -------------------------------------------------


def _file(text: str, parts: _Parts, faults: list[Diagnostic]) -> File:
    whole = Span(1, 1, 1, len(text) + 1)
    block = parts.block or Number("16", whole)
    made = [_grid(word, block.text) for word in parts.atoms]
    grids = [grid for grid, _ in made]
    for index, grid in enumerate(grids):
        if grid.name in (other.name for other in grids[:index]):
            message = f"the atom '{parts.atoms[index].text}' stands twice"
            faults.append(Diagnostic("E0208", message, grid.span, hint="keep one of them"))
    extent = Word("tensor", block.span) if int(block.text) == 0 else block
    clauses: list[Clause] = [
        Cite(Text("SOP, arXiv:2605.14929", whole), whole),
        Setting(Word("block", block.span), extent, block.span),
        *grids,
        _scale_clause(parts.scale or Word("FP32", whole), len(grids)),
    ]
    if len(grids) > 1:
        clauses.append(_select(parts.scale or Word("FP32", whole), grids, faults))
    if parts.promote:
        clauses.append(parts.promote)
    clauses += parts.sides
    bases = [base for _, base in made if base is not None]
    name = Word(re.sub(r"\W", "_", text.lower(), flags=re.ASCII), whole)
    return File(
        formats=(FormatDecl(name, Text(text, whole), tuple(clauses), span=whole),),
        imports=tuple({base.source: base for base in bases if isinstance(base, Import)}.values()),
        atoms=tuple({base.name: base for base in bases if isinstance(base, AtomDecl)}.values()),
    )


def _grid(word: Word, block: str) -> tuple[GridDecl, Import | AtomDecl | None]:
    """The grid that an atom of a string makes, and what must stand above the format for it."""
    span = word.span
    negated = word.text.startswith("-")
    plain = word.text.removeprefix("-")
    integer = _INT.fullmatch(plain)
    base: Import | AtomDecl | None = None
    if plain in _IMPORTED:
        own = _IMPORTED[plain]
        source = own if int(block) not in _BY_BLOCK.get(own, ()) else f"{own}_i{int(block)}"
        base = Import(Text(source, span), span)
        atom = Atom(Word(source, span), span=span)
    else:
        own = plain.lower()
        bits = Number(integer[1], span) if integer else None
        atom = Atom(Word("int" if integer else own, span), bits, span=span)
        if negated:  # only what has a name of its own can be negated
            base = AtomDecl(Word(f"plain_{own}", span), None, atom, span)
            atom = Atom(base.name, span=span)
    if not negated:
        return GridDecl(Word(own, span), atom, span), base
    order = Setting(Word("order", span), Word("negated", span), span)
    atom = Atom(atom.kind, settings=(order,), span=span)
    return GridDecl(Word(f"neg_{own}", span), atom, span), base


def _scale_clause(word: Word, grids: int) -> ScaleDecl:
    _, exponent, mantissa = _float(word.text) or (False, 8, 0)
    settings = [Setting(Word("rule", word.span), Word("absmax", word.span), word.span)]
    if exponent < 8:
        settings.append(Setting(Word("shift", word.span), Word("auto", word.span), word.span))
    bits = exponent + mantissa
    if grids == 1 and word.text.startswith("U") and 8 < bits < 12:
        # The paper counts UE4M6 as 10 bits; its containers of 12 bits hold metabits too.
        number = Number(str(bits), word.span)
        settings.append(Setting(Word("container", word.span), number, word.span))
    return ScaleDecl(Word(word.text.lower(), word.span), tuple(settings), span=word.span)


def _select(word: Word, grids: list[GridDecl], faults: list[Diagnostic]) -> SelectDecl:
    """The choice among grids: in the word's metabits, or else in its sign, free under absmax."""
    bits = (len(grids) - 1).bit_length()
    signed, exponent, mantissa = _float(word.text) or (False, 8, 0)
    used = signed + exponent + mantissa
    free = next(size for size in (8, 12, 16, 32) if size >= used) - used
    if free < bits and not (signed and bits == 1):
        needed = "bit that selects" if bits == 1 else f"{bits} bits that select"
        message = f"the scale word {word.text} has no room for the {needed} a grid"
        faults.append(Diagnostic("E0402", message, word.span, hint=_ROOMIER[bits]))
    place = Word("scale.meta" if free >= bits else "scale.sign", word.span)
    arms = tuple(
        Arm(Number(str(index), grid.span), grid.name, grid.span) for index, grid in enumerate(grids)
    )
    return SelectDecl(Number(str(bits), word.span), place, arms, word.span)
