"""Whole tensors: rows cut into blocks, scales stored (and stored again), sides beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

from ....compiler.exact import fp32_from_bits, round_fp32
from ....compiler.format import Format
from .binary32 import clipped, plus, times
from .blocks import Trial, block_trials, near_best
from .elements import code_of, value_of
from .scales import Level, level_of, little_endian, tensor_scale, word_value
from .sides import Kept, add_residuals, put_outliers, take_outliers, worst_residuals
from .streams import Fields

Rows = Sequence[Sequence[float]]
#: A block of elements: (row, column) of each, in order.
Place = list[tuple[int, int]]


class Undecided(Exception):
    """Two trials err alike, and what is stored does not show which one was taken."""


def encode_tensor(
    fmt: Format,
    x: Rows,
    level: Level,
    weights: Sequence[float] | None = None,
    seen: Fields | None = None,
) -> tuple[Fields, dict[str, Kept]]:
    """The items of every stream of a tensor, and what its sides keep.

    Args:
        fmt: the format.
        x: rows of binary32 numbers, finite or NaN where the format propagates it.
        level: the second level.
        weights: of the columns, or None.
        seen: what an encoder under test stored. Where several trials of a block err alike, the
            one that it took is taken; anything else is decided by the definition alone.

    Raises:
        Undecided: ``seen`` does not show which of such trials was taken.
    """
    kept: dict[str, Kept] = {}
    rest = [list(row) for row in x]
    for side in fmt.sides:
        if side.kind == "opq":
            rest, kept["opq"] = take_outliers(side, rest, fmt.block)
    dense = replace(fmt, sides=(), record=None)
    fields = _encode_dense(dense, rest, level, weights, seen)
    for side in fmt.sides:
        if side.kind == "wr":
            decoded = decode_tensor(dense, fields, len(x), len(x[0]) if x else 0, level)
            for other in fmt.sides:
                if other.kind == "opq":
                    put_outliers(other, decoded, kept["opq"])
            kept["wr"] = worst_residuals(side, x, decoded, weights)
    return fields, kept


def decode_tensor(
    fmt: Format,
    fields: Fields,
    rows: int,
    length: int,
    level: Level,
    kept: dict[str, Kept] | None = None,
) -> list[list[float]]:
    """What the items of every stream mean: binary32 numbers, NaN where a code has no value."""
    out = [[0.0] * length for _ in range(rows)]
    _, places = _places(fmt, rows, length)
    scales, zeros = effective(fmt, fields, rows, length, level)
    for (r, c), place in places.items():
        zero = 0.0 if zeros is None else zeros[r][c]
        index = select_at(fmt, fields, r, c)
        for row, column in place:
            code = fields["codes"][row][column]
            out[row][column] = value_of(fmt, index, code, scales[r][c], zero)
    for side in fmt.sides:
        if kept is not None and side.kind == "opq":
            put_outliers(side, out, kept["opq"])
        elif kept is not None:
            add_residuals(side, out, kept["wr"])
    return out


def tensor_level(fmt: Format, x: Rows) -> Level:
    """The second level of a tensor, of what is left of it without its outliers."""
    rest = [list(row) for row in x]
    for side in fmt.sides:
        if side.kind == "opq":
            rest, _ = take_outliers(side, rest, fmt.block)
    places = block_places(fmt, len(rest), len(rest[0]) if rest else 0)
    return level_of(fmt, [[rest[row][column] for row, column in place] for place in places])


def effective(
    fmt: Format, fields: Fields, rows: int, length: int, level: Level
) -> tuple[list[list[float]], list[list[float]] | None]:
    """Scales and zeros (None without) of all blocks, as elements are decoded with them."""
    shape, _ = _places(fmt, rows, length)
    scales = _stored_values(fmt, fields, "scales", shape, level)
    return scales, _stored_values(fmt, fields, "zeros", shape, level) if fmt.zero else None


def block_places(fmt: Format, rows: int, length: int) -> list[Place]:
    """The elements of every block, blocks in the order of their words."""
    return list(_places(fmt, rows, length)[1].values())


def _places(
    fmt: Format, rows: int, length: int
) -> tuple[tuple[int, int], dict[tuple[int, int], Place]]:
    """The shape of the matrix of blocks, and the elements of each, row by row."""
    if fmt.extent == "row":
        height, width, shape = 1, length, (rows, 1)
    elif fmt.extent == "tensor":
        height, width, shape = rows, length, (1, 1)
    else:
        height, width = fmt.tile, fmt.block
        shape = -(-rows // height), -(-length // width)
    places = {
        (r, c): [
            (row, column)
            for row in range(r * height, min(rows, (r + 1) * height))
            for column in range(c * width, min(length, (c + 1) * width))
        ]
        for r in range(shape[0])
        for c in range(shape[1])
    }
    return shape, places


# -- encoding ------------------------------------------------------------------------------


def _encode_dense(
    fmt: Format, x: Rows, level: Level, weights: Sequence[float] | None, seen: Fields | None
) -> Fields:
    rows, length = len(x), len(x[0]) if x else 0
    shape, places = _places(fmt, rows, length)
    fields: Fields = {"codes": [[0] * length for _ in range(rows)]}
    units = [level.unit] * shape[0]
    if fmt.scale.tensor == "rows":
        own = [tensor_scale(fmt, max(abs(Fraction(v)) for v in row if v == v)) for row in x]
        units = [Fraction(value) for value in own]
        fields["levels"] = [[little_endian(value)] for value in own]
    taken: dict[tuple[int, int], Trial] = {}
    for (r, c), place in places.items():
        block = [x[row][column] for row, column in place]
        mine = None if weights is None else [weights[column] for _, column in place]
        trials = near_best(block_trials(fmt, block, units[r], mine))
        taken[r, c] = _choose(fmt, trials, seen, (r, c), place)
    scales = _store(fmt, fields, shape, taken, "scales", seen)
    zeros = _store(fmt, fields, shape, taken, "zeros", seen)
    if fmt.select.place == "field":
        fields["select"] = _matrix(shape, lambda at: taken[at].select)
    for (r, c), place in places.items():
        trial = taken[r, c]
        codes = trial.codes
        if fmt.scale.codes == "stored" and (scales is not None or zeros is not None):
            scale = trial.scale if scales is None else scales[r][c]
            zero = trial.zero if zeros is None else zeros[r][c]
            codes = tuple(
                code_of(fmt, trial.select, x[row][column], scale, zero) for row, column in place
            )
        for (row, column), code in zip(place, codes, strict=True):
            fields["codes"][row][column] = code
    return fields


def _choose(
    fmt: Format, trials: list[Trial], seen: Fields | None, at: tuple[int, int], place: Place
) -> Trial:
    """The best trial, or of those that err alike the one that was taken."""
    if len({trial.stored for trial in trials}) == 1 or seen is None:
        return trials[0]
    r, c = at
    for trial in trials:
        shown = {
            "scales": trial.word,
            "zeros": trial.zero_word,
            "select": trial.select if fmt.select.place == "field" else None,
        }
        same = all(v is None or v == seen[name][r][c] for name, v in shown.items())
        if trial.word is not None:
            same = same and [seen["codes"][i][j] for i, j in place] == list(trial.codes)
        if same:
            alike = {(t.scale, t.zero) for t in trials if t.select == trial.select}
            hidden = trial.word is None or (fmt.zero is not None and trial.zero_word is None)
            if hidden and len(alike) > 1:
                raise Undecided
            return trial
    return trials[0]


def _store(
    fmt: Format,
    fields: Fields,
    shape: tuple[int, int],
    taken: dict[tuple[int, int], Trial],
    name: str,
    seen: Fields | None,
) -> list[list[float]] | None:
    """Put the words of scales or zeros among the fields.

    Those that a format of their own stores are what that decodes to, which is returned.
    """
    owner = fmt.scale if name == "scales" else fmt.zero
    if owner is None:
        return None
    if owner.stored is None:
        fields[name] = _matrix(
            shape,
            lambda at: (taken[at].word if name == "scales" else taken[at].zero_word) or 0,
        )
        return None
    negated = fmt.zero is not None and name == "zeros" and fmt.zero.negated
    sign = -1.0 if negated else 1.0
    values = [
        [
            taken[r, c].scale if name == "scales" else taken[r, c].zero * sign + 0.0
            for c in range(shape[1])
        ]
        for r in range(shape[0])
    ]
    matrix = [[v for row in values for v in row]] if owner.flat else values
    if owner.center:
        mean = _mean([v for row in matrix for v in row])
        fields[f"{name}.center"] = [[little_endian(mean)]]
        matrix = [[plus(v, -mean) for v in row] for row in matrix]
    own = None
    if seen is not None:
        own = {k.removeprefix(f"{name}."): v for k, v in seen.items() if k.startswith(f"{name}.")}
    inner, _ = encode_tensor(owner.stored, matrix, Level(), None, own)
    fields.update({f"{name}.{part}": rows for part, rows in inner.items()})
    return _stored_values(fmt, fields, name, shape, Level())


def _mean(values: list[float]) -> float:
    """The mean in binary64, rounded once more."""
    return round_fp32(Fraction(float(sum(map(Fraction, values)) / len(values))))


# -- decoding ------------------------------------------------------------------------------


def _stored_values(
    fmt: Format, fields: Fields, name: str, shape: tuple[int, int], level: Level
) -> list[list[float]]:
    """The effective scale, zero point or minimum of every block."""
    owner = fmt.scale if name == "scales" else fmt.zero
    if owner is None:
        raise ValueError("the format has no zeros")
    negated = fmt.zero is not None and name == "zeros" and fmt.zero.negated
    sign = -1.0 if negated else 1.0
    if owner.stored is not None:
        return [[sign * v for v in row] for row in _inner_values(fmt, fields, name, shape)]
    if name == "zeros":
        return [
            [
                sign * _zero_value(fmt, word, select_at(fmt, fields, r, c))
                for c, word in enumerate(row)
            ]
            for r, row in enumerate(fields[name])
        ]
    units = [level.unit] * shape[0]
    if fmt.scale.tensor == "rows":
        units = [Fraction(fp32_from_bits(row[0])) for row in fields["levels"]]
    own_sign = fmt.select.place != "scale.sign"
    return [
        [_effective(word_value(fmt.scale.word, w, signed=own_sign), units[r]) for w in row]
        for r, row in enumerate(fields[name])
    ]


def _effective(value: float, unit: Fraction) -> float:
    if not math.isfinite(value):
        return value
    return times(value, float(unit))


def _zero_value(fmt: Format, word: int, index: int) -> float:
    if fmt.zero is None or fmt.zero.word is None:
        return float(word + int(fmt.grids[min(index, len(fmt.grids) - 1)].low))
    return word_value(fmt.zero.word, word)


def _inner_values(
    fmt: Format, fields: Fields, name: str, shape: tuple[int, int]
) -> list[list[float]]:
    owner = fmt.scale if name == "scales" else fmt.zero
    if owner is None or owner.stored is None:
        raise ValueError("no format of their own")
    rows, columns = (1, shape[0] * shape[1]) if owner.flat else shape
    own = {k.removeprefix(f"{name}."): v for k, v in fields.items() if k.startswith(f"{name}.")}
    values = decode_tensor(owner.stored, own, rows, columns, Level())
    if owner.center:
        mean = fp32_from_bits(fields[f"{name}.center"][0][0])
        values = [[clipped(plus(v, mean)) for v in row] for row in values]
    if owner.flat:
        return [values[0][r * shape[1] : (r + 1) * shape[1]] for r in range(shape[0])]
    return values


def select_at(fmt: Format, fields: Fields, r: int, c: int) -> int:
    """The grid index of a block, from its field or its scale word."""
    if fmt.select.place == "field":
        return fields["select"][r][c]
    index = 0
    for position in fmt.select.positions:
        index = index << 1 | fields["scales"][r][c] >> position & 1
    return index


def _matrix(shape: tuple[int, int], value: Callable[[tuple[int, int]], int]) -> list[list[int]]:
    return [[value((r, c)) for c in range(shape[1])] for r in range(shape[0])]
