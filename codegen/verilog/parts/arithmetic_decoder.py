"""The decoder of an element by arithmetic: the fields of a float, an offset, a HIF word.

It stands for the constant table of ``element_decoder`` wherever every grid of a format has such
a form. A form is tried on every code: one that misses a single word is not taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ....compiler.decoding import Values, offset_integer
from ....compiler.hosts import COEFFICIENT_BITS, HifWord
from ... import NotExpressible
from ...design import Operand, Side
from ..bench import Bench, vector_bench
from ..module import Module
from .words import element_inputs, element_outputs, shifted


@dataclass(frozen=True, slots=True)
class Form:
    """How a code becomes a word.

    Attributes:
        kind: ``float``: sign on top, ``exponent`` and ``mantissa`` bits below; the significand
            is shifted by the exponent and ``more``, of which the coefficient takes up to ``room``.
            ``integer``: ``((code ^ flip) - bias) << more``. ``hif``: shift above coefficient.
        broken: which codes are no number: ``none``, ``all_ones`` below the sign, ``top_exponent``,
            ``long_shift``, or ``code``, the one code ``broken_code``.
    """

    kind: str
    broken: str = "none"
    broken_code: int = 0
    exponent: int = 0
    mantissa: int = 0
    more: int = 0
    room: int = 0
    flip: int = 0
    bias: int = 0

    def word(self, code: int, bits: int, last_shift: int) -> HifWord | None:
        """What the form decodes a code of ``bits`` bits to; None: no number."""
        if self._is_broken(code, bits, last_shift):
            return None
        if self.kind == "hif":
            return HifWord.of_bits(code)
        if self.kind == "integer":
            return HifWord(((code ^ self.flip) - self.bias) << self.more, 0)
        field = code >> self.mantissa & (1 << self.exponent) - 1
        fraction = code & (1 << self.mantissa) - 1
        significand = fraction | (field > 0) << self.mantissa
        steps = max(field, 1) - 1 + self.more
        inside = min(steps, self.room)
        sign = -1 if code >> (bits - 1) else 1
        return HifWord(sign * significand << inside, steps - inside)

    def _is_broken(self, code: int, bits: int, last_shift: int) -> bool:
        magnitude = code & (1 << (bits - 1)) - 1
        match self.broken:
            case "all_ones":
                return magnitude == (1 << (bits - 1)) - 1
            case "top_exponent":
                return magnitude >> self.mantissa == (1 << self.exponent) - 1
            case "long_shift":
                return code >> COEFFICIENT_BITS > last_shift
            case "code":
                return code == self.broken_code
        return False


def arithmetic_decoder(side: Side) -> Module:
    """The element decoder without a table.

    Raises:
        NotExpressible: some grid has no arithmetic form.
    """
    forms = forms_of(side)
    if forms is None:
        raise NotExpressible(f"some grid of '{side.name}' is no float, integer or HIF word")
    operand = side.operand
    lsb = shifted("element_shift_o" if operand.shift_bits else "", operand.unit)
    return Module(
        owner=side.fmt,
        part="arithmetic_decoder",
        notes=(
            f"Decodes one element by arithmetic: {operand.form}.",
            f"value = element_coefficient_o * 2^({lsb}); -0 is 0",
            (
                f"Equal to {side.name}_element_decoder, which is a table, for every input: "
                "'fmtc verify' proves it."
            ),
        ),
        ports=(*element_inputs(side), *element_outputs(side)),
        values={"side": side, "forms": forms, "operand": operand},
    )


def arithmetic_decoder_bench(side: Side) -> Bench:
    """Every code under every select, the unused ones too."""
    module = arithmetic_decoder(side)
    selects = range(1 << side.select_bits)
    rows = [_row(side, select, code) for select in selects for code in range(side.codes)]
    return vector_bench(module, rows, "Every code, with every grid.")


def _row(side: Side, select: int, code: int) -> dict[str, int]:
    rows = side.operand.words
    word = rows[select][code] if select < len(rows) else None
    row = {"code_i": code, "element_valid_o": int(word is not None)}
    row["element_coefficient_o"] = word.coefficient if word else 0
    if side.select_bits:
        row["select_i"] = select
    if side.operand.shift_bits:
        row["element_shift_o"] = word.shift if word else 0
    return row


def forms_of(side: Side) -> tuple[Form, ...] | None:
    """A form for every grid, or None."""
    forms = []
    for grid, words in zip(side.fmt.grids, side.operand.words, strict=True):
        found = _form(side, grid.values, words)
        if found is None:
            return None
        forms.append(found)
    return tuple(forms)


def _form(side: Side, values: Values, words: tuple[HifWord | None, ...]) -> Form | None:
    bits, operand = side.code_bits, side.operand
    if len(values) != 1 << bits:
        return None
    for form in _candidates(values, bits, operand):
        if all(form.word(code, bits, operand.max_shift) == word for code, word in enumerate(words)):
            return form
    return None


def _candidates(values: Values, bits: int, operand: Operand) -> Iterator[Form]:
    missing = [code for code, value in enumerate(values) if value is None]
    rules = [("none", 0)] if not missing else [("all_ones", 0), ("top_exponent", 0)]
    if len(missing) == 1:
        rules.append(("code", missing[0]))
    if bits > COEFFICIENT_BITS == operand.coefficient_bits and operand.shift_bits:
        yield Form("hif", "long_shift" if missing else "none")
    whole = offset_integer(values)
    if whole is not None and whole.power >= operand.unit:
        for broken, code in rules:
            more = whole.power - operand.unit
            yield Form("integer", broken, code, more=more, flip=whole.flip, bias=whole.bias)
    for exponent in range(bits):
        mantissa = bits - 1 - exponent
        spare = operand.coefficient_bits - 2 - mantissa
        rooms = (spare,) if operand.shift_bits else (operand.coefficient_bits - 1,)
        for room in rooms:
            if room < 0:
                continue
            for more in range(operand.coefficient_bits):
                for broken, code in rules:
                    yield Form("float", broken, code, exponent, mantissa, more, room)
