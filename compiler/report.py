"""Collecting the faults of a .fmt text, and reading settings against their table of knobs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

from ..dsl.ast import Call, Expr, Setting, Span, Text, Word
from ..dsl.diagnostics import Diagnostic, did_you_mean, nearest
from .exact import EvaluationError, evaluate, show_number
from .vocabulary import FLOAT_KNOBS, FORMAT_KNOBS, INTEGER_KNOBS, SCALE_KNOBS, Knob

#: Every code that the compiler reports, with what it stands for.
CODES = {
    "E0201": "a file holds no format, or more than one",
    "E0202": "unknown atom",
    "E0203": "unknown scale word",
    "E0204": "unknown setting",
    "E0205": "a setting has a value that it does not take",
    "E0206": "unknown grid in a select clause",
    "E0207": "unknown place for select bits",
    "E0208": "something is said twice",
    "E0209": "unknown stream",
    "E0301": "an expression has no exact value",
    "E0302": "a number is out of range",
    "E0303": "the host lacks a value of the grid",
    "E0304": "a codebook has the wrong number of values, or codes of different widths meet",
    "E0305": "a grid cannot be compared exactly, or has no two values",
    "E0401": "a clause is missing",
    "E0402": "the scale word has no room for the select bits",
    "E0403": "two uses of the scale's sign bit",
    "E0404": "a policy needs a NaN that the scale word lacks",
    "E0405": "grids and select clause do not fit together",
    "E0406": "two ways to move the scale's range at once",
    "E0407": "a scale value that the scale word lacks",
    "E0408": "the scale rule does not fit the grid or the word",
    "E0409": "the zero does not fit the scale, the grid or the policies",
    "E0410": "a format inside a format uses what only a whole format has",
    "E0411": "blocks of this shape do not fit another clause",
    "E0412": "a record does not hold every stored bit once",
    "E0413": "the fields of a record do not come out even",
    "E0501": "a file that is named cannot be read, has faults, or holds something else",
    "E0502": "a path leads out of the folder that may be read",
    "E0503": "files or atoms lead in a circle, or too far",
    "E0504": "an atom has the name of a built-in kind",
}


#: Whose setting a key is, for the hint where it stands in the wrong braces.
_HOMES = (
    (FORMAT_KNOBS, "the format: write it outside these braces"),
    (SCALE_KNOBS, "the scale: write it in the braces of the scale clause"),
    (FLOAT_KNOBS, "a float: write it in the braces of that grid or scale"),
    (INTEGER_KNOBS, "the atom 'int': write it in the braces of that grid"),
)


def suggest(word: str, candidates: Iterable[str]) -> str | None:
    """A hint that names the candidate most like ``word``, or one that is a part of it."""
    known = list(candidates)
    hint = did_you_mean(word, known)
    if hint is None and len(word) >= 4:
        lower = word.lower()
        for candidate in known:
            if lower in candidate or (len(candidate) >= 4 and candidate in lower):
                return f"did you mean '{candidate}'?"
    return hint


@dataclass
class Report:
    """The faults found so far."""

    diagnostics: list[Diagnostic] = field(default_factory=list)

    def add(
        self,
        code: str,
        message: str,
        span: Span,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        """Note one fault; ``code`` must stand in ``CODES``."""
        if code not in CODES:
            raise KeyError(code)
        self.diagnostics.append(Diagnostic(code, message, span, expected, hint))

    def number(self, expr: Expr) -> Fraction | None:
        """The exact value of an expression, or None after noting why it has none."""
        try:
            return evaluate(expr)
        except EvaluationError as error:
            self.add("E0301", error.message, error.span, hint=error.hint)
            return None

    def integer(self, expr: Expr, what: str, low: int, high: int) -> int | None:
        """An integer in ``low..high``, or None after noting that it is not one."""
        value = self.number(expr)
        if value is None:
            return None
        if value.denominator != 1 or not low <= value <= high:
            self.add(
                "E0302",
                f"{what} cannot be {show_number(value)}",
                expr.span,
                expected=f"an integer from {low} to {high}",
                hint=f"the nearest legal value is {min(max(round(value), low), high)}",
            )
            return None
        return int(value)


class Settings:
    """The settings of one owner, checked against its knobs.

    Unknown keys, doubled keys and illegal values are noted in the report at once; what is
    read afterwards is legal or the default.
    """

    def __init__(
        self, owner: str, given: Iterable[Setting], knobs: dict[str, Knob], report: Report
    ) -> None:
        self._knobs = knobs
        self._report = report
        self._given: dict[str, Setting] = {}
        self._tried: set[str | None] = set()
        for setting in given:
            key = setting.key.text
            self._tried.add(key if key in knobs else nearest(key, knobs))
            if key not in knobs:
                report.add(
                    "E0204",
                    f"{owner} has no setting '{key}'",
                    setting.key.span,
                    expected="one of " + ", ".join(knobs),
                    hint=self._hint(key),
                )
            elif key in self._given:
                first = self._given[key].span.line
                report.add(
                    "E0208",
                    f"'{key}' is said twice; it was set on line {first} already",
                    setting.span,
                    hint="keep one of them",
                )
            elif self._legal(knobs[key], setting):
                self._given[key] = setting

    def _hint(self, key: str) -> str | None:
        """The way out for an unknown key: where it belongs, or what it may be meant for."""
        for home, where in _HOMES:
            if key in home:
                return f"'{key}' is a setting of {where}"
        return suggest(key, self._knobs)

    def _legal(self, knob: Knob, setting: Setting) -> bool:
        value = setting.value
        hint = None
        if isinstance(value, Word):
            legal, shown = value.text in knob.words, f"'{value.text}'"
            hint = suggest(value.text, knob.words)
        elif isinstance(value, Text):
            legal, shown = knob.text, "a string"
            if value.text in knob.words:
                hint = f"write it without quotes: {knob.key} {value.text}"
        elif isinstance(value, Call) and knob.calls:
            legal, shown = value.function.text in knob.calls, f"{value.function.text}(...)"
            hint = suggest(value.function.text, knob.calls)
        else:
            legal, shown = knob.number, "a number"
        if not legal:
            self._report.add(
                "E0205",
                f"'{knob.key}' does not take {shown}",
                value.span,
                expected=knob.legal,
                hint=hint,
            )
        return legal

    def tried(self, key: str) -> bool:
        """Whether the file sets ``key``, be it misspelt or to an illegal value."""
        return key in self._tried

    def span(self, key: str, otherwise: Span) -> Span:
        """Where ``key`` is said, or ``otherwise`` where it is defaulted."""
        return self._given[key].span if key in self._given else otherwise

    def said(self, key: str) -> bool:
        """Whether the file says ``key`` (legally)."""
        return key in self._given

    def word(self, key: str) -> str | None:
        """The word that ``key`` has, its default, or None when it is a number."""
        if key not in self._given:
            return self._knobs[key].default
        value = self._given[key].value
        return value.text if isinstance(value, Word) else None

    def choice(self, key: str) -> str:
        """The word of a knob that takes only words."""
        word = self.word(key)
        if word is None:
            raise KeyError(f"'{key}' takes numbers too: read it with expression()")
        return word

    def expression(self, key: str) -> Expr | None:
        """The expression that ``key`` has; None for a word, a string, a knob's call, or nothing."""
        value = self._given[key].value if key in self._given else None
        if value is None or isinstance(value, Word | Text) or self.call(key):
            return None
        return value

    def call(self, key: str) -> Call | None:
        """The call that ``key`` has (``targets(6, 4)``), or None."""
        value = self._given[key].value if key in self._given else None
        legal = isinstance(value, Call) and value.function.text in self._knobs[key].calls
        return value if isinstance(value, Call) and legal else None

    def text(self, key: str) -> str | None:
        """The string that ``key`` has, or None."""
        value = self._given[key].value if key in self._given else None
        return value.text if isinstance(value, Text) else None
