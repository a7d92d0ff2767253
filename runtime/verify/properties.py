"""What holds of every format, for any tensor: each property with the conditions of its theory.

A property takes a ``Case`` and raises ``Mismatch`` where it does not hold. It returns whether it
had anything to say: its conditions may not be met.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ...compiler.format import Format
from ...compiler.kernel import dense_format
from ...compiler.reference import TensorLevel, calibrate
from ...compiler.streams import stream_shapes
from ..backend import F32, U8, Backend, ReferenceBackend
from . import checks, oracle, theory
from .checks import Mismatch, compare_with_oracle
from .tensors import tensors, weights

EXAMPLES = 100


@dataclass(frozen=True, slots=True)
class Case:
    """A format on a back end, a finite tensor that it takes, and weights of its columns.

    ``x`` is any finite tensor; ``moderate`` one of zeros and sizes from 2^-8 to 2^8.
    """

    fmt: Format = field(repr=False)
    backend: Backend = field(repr=False)
    x: F32
    moderate: F32
    weights: F32

    def encode(self, x: F32, level: TensorLevel | None = None) -> tuple[dict[str, U8], F32]:
        """The streams of a tensor under its own second level or a given one, and its values."""
        level = level or calibrate(self.fmt, x)
        streams = self.backend.encode(np.ascontiguousarray(x), level)
        return streams, self.backend.decode(streams, x.shape[1], level)

    def fields(self, streams: dict[str, U8], x: F32) -> oracle.Fields:
        """The items of the streams."""
        octets = {name: [row.tobytes() for row in rows] for name, rows in streams.items()}
        return oracle.read_streams(self.fmt, octets, *x.shape)


@st.composite
def cases(draw: st.DrawFn, fmt: Format, backend: Backend) -> Case:
    """Tensors and weights for a format."""
    x = draw(tensors(fmt))
    moderate = draw(tensors(fmt, moderate=True))
    return Case(fmt, backend, x, moderate, draw(weights(x.shape[1])))


Property = Callable[[Case], bool]


def nearest_by_exact_rationals(case: Case) -> bool:
    """Scales, grids, codes and values are those that exact rationals choose.

    So every element takes the nearest value, and of all that is tried the least error wins.
    """
    level = calibrate(case.fmt, case.x)
    weighted = case.fmt.policies.error != "squared" or bool(case.fmt.sides)
    given = case.weights if weighted else None
    return compare_with_oracle(case.fmt, case.backend, case.x, level, given) > 0


def second_level_is_exact(case: Case) -> bool:
    """The tensor's scale or shift is the one that exact rationals choose."""
    found = calibrate(case.fmt, case.x)
    exact = oracle.tensor_level(case.fmt, [[float(v) for v in row] for row in case.x])
    if (found.tensor_scale, found.shift) != (exact.tensor_scale, exact.shift):
        raise Mismatch(f"{case.x.tolist()}: the second level is {found}, exactly {exact}")
    return case.fmt.scale.tensor == "fp32" or case.fmt.scale.shift != 0


def dequantized_comes_back(case: Case) -> bool:
    """What was dequantized quantizes to the same bytes, under two conditions.

    * Every product of grid value and scale is exact, and elements are coded under stored scales;
    * The block's scale and zero come out the same. That they do is part of the property where
      one scale is tried and the rule asks the decoded block for exactly the stored one.

    In short: the block is then on its grid, and nothing is left to round.
    """
    fmt = case.fmt
    if fmt.sides or fmt.scale.codes == "wanted" or fmt.policies.offset is not None:
        return False
    level = calibrate(fmt, case.x)
    streams, y = case.encode(case.x, level)
    if not np.isfinite(y).all():
        return False
    again, _ = case.encode(y, level)
    one, two = case.fields(streams, y), case.fields(again, y)
    own = [name for name in one if name in ("scales", "zeros", "select")]
    whole = [name for name in one if name != "codes" and name not in own]
    if any(one[name] != two[name] for name in whole):
        return False
    columns = _columns(fmt, y.shape[1])
    said = False
    for number, place in enumerate(oracle.block_places(fmt, *y.shape)):
        r, c = divmod(number, columns)
        if not _is_on_grid(fmt, one, level, y, place, (r, c)):
            continue
        same = all(one[name][r][c] == two[name][r][c] for name in own)
        if not same and _asks_again(fmt, one, level, y, place, (r, c)):
            raise Mismatch(f"block {number} of {y.tolist()}, dequantized, gets another scale")
        if same and any(not _alike(fmt, one, two, (r, c), at) for at in place):
            raise Mismatch(f"block {number} of {y.tolist()}, dequantized, gets other codes")
        said = said or same
    return said


def _alike(
    fmt: Format, one: oracle.Fields, two: oracle.Fields, block: tuple[int, int], at: tuple[int, int]
) -> bool:
    """Whether two codes are the same; under a minimum, which hides the sign of a zero, mean it."""
    a, b = (fields["codes"][at[0]][at[1]] for fields in (one, two))
    if a == b or fmt.zero is None:
        return a == b
    values = fmt.grids[oracle.select_at(fmt, one, *block)].values
    return values[a] == values[b]


def _columns(fmt: Format, length: int) -> int:
    return -(-length // fmt.block) if fmt.extent == "block" else 1


Place = list[tuple[int, int]]


def _is_on_grid(
    fmt: Format,
    fields: oracle.Fields,
    level: TensorLevel,
    y: F32,
    place: Place,
    at: tuple[int, int],
) -> bool:
    """Whether every element is its grid value times the scale, without a rounding.

    Under a comparison that rounds midpoints, values must be further apart than that.
    """
    rows, length = y.shape
    scales, zeros = oracle.effective(fmt, fields, rows, length, _unit(level))
    s = scales[at[0]][at[1]]
    z = 0.0 if zeros is None else zeros[at[0]][at[1]]
    if s == 0 or not np.isfinite(s):
        return False
    grid = fmt.grids[oracle.select_at(fmt, fields, *at)]
    if fmt.policies.compare != "exact" and not theory.is_well_apart(grid):
        return False
    for i, j in place:
        value = grid.values[fields["codes"][i][j]] or Fraction(0)
        exact = value * Fraction(s)
        if fmt.zero is not None and fmt.zero.kind == "point":
            exact = (value - Fraction(z)) * Fraction(s)
        elif fmt.zero is not None:
            exact += Fraction(z)
            if (Fraction(float(y[i, j])) - Fraction(z)) != value * Fraction(s):
                return False
        if Fraction(float(y[i, j])) != exact:
            return False
    return theory.inverts(fmt, s)


def _asks_again(
    fmt: Format,
    fields: oracle.Fields,
    level: TensorLevel,
    y: F32,
    place: Place,
    at: tuple[int, int],
) -> bool:
    """Whether the rule asks the decoded block for exactly the scale that is stored."""
    direct = fmt.zero is None and fmt.scale.stored is None and fmt.scale.tensor != "rows"
    if not direct or not theory.has_one_trial(fmt):
        return False
    target = fmt.scale.targets[0] if fmt.scale.targets else None
    block = oracle.Block(tuple(Fraction(float(y[i, j])) for i, j in place))
    unit = _unit(level).unit
    asked, negative = oracle.real_scale(fmt, fmt.grids[0], target, False, block, unit)
    word = oracle.word_value(fmt.scale.word, fields["scales"][at[0]][at[1]])
    return asked > 0 and asked == abs(Fraction(word)) and negative == (word < 0)


def _unit(level: TensorLevel) -> oracle.Level:
    return oracle.Level(level.tensor_scale, level.shift)


def order_is_kept(case: Case) -> bool:
    """In a block, of two elements the larger one never decodes to less.

    Sides aside, which exempt single elements; under ``codes wanted`` where the stored scale has
    the sign of the wanted one, which a subtracted mean may turn.
    """
    fmt = dense_format(case.fmt)
    x = case.x
    if fmt.scale.codes == "wanted" and fmt.scale.stored is not None:
        return False
    backend = ReferenceBackend(fmt) if fmt != case.fmt else case.backend
    level = calibrate(fmt, x)
    y = backend.decode(backend.encode(x, level), x.shape[1], level)
    for place in oracle.block_places(fmt, *x.shape):
        pairs = sorted((float(x[at]), float(y[at])) for at in place)
        values = [value for _, value in pairs]
        if values != sorted(values):
            raise Mismatch(f"{[p[0] for p in pairs]} of one block decode to {values}")
    return True


def minus_x_decodes_to_minus(case: Case) -> bool:
    """-x decodes to minus what x does, where grids and policies are odd (``theory.is_odd``)."""
    if not theory.is_odd(case.fmt):
        return False
    _, y = case.encode(case.x)
    _, minus = case.encode(-case.x)
    if not np.array_equal(y, -minus, equal_nan=True):
        raise Mismatch(f"{case.x.tolist()} decodes to {y.tolist()}, -x to {minus.tolist()}")
    return bool(y.any())


def four_times_x_decodes_to_four_times(case: Case) -> bool:
    """4 x decodes to four times what x does, where no stored scale is near an end of its range."""
    fmt, x = case.fmt, case.moderate
    four = x * np.float32(4)
    first, y = case.encode(x)
    second, fourfold = case.encode(four)
    fields = case.fields(first, x), case.fields(second, x)
    sizes = np.abs(y[y != 0])
    if not all(theory.is_in_range(fmt, f) for f in fields) or sizes.min(initial=1) < 2.0**-90:
        return False
    if any(not x[tuple(zip(*p, strict=True))].any() for p in oracle.block_places(fmt, *x.shape)):
        return False  # an all-zero block has one scale, whatever it is multiplied by
    if not np.array_equal(y * np.float32(4), fourfold, equal_nan=True):
        raise Mismatch(f"{x.tolist()} decodes to {y.tolist()}, 4 x to {fourfold.tolist()}")
    return True


def a_zeros_sign_changes_nothing_else(case: Case) -> bool:
    """Zeros never change what their neighbours become, whatever their sign."""
    flipped = np.where(case.x == 0, -case.x, case.x)
    _, one = case.encode(case.x)
    _, two = case.encode(flipped)
    if not np.array_equal(one, two, equal_nan=True):
        raise Mismatch(f"{case.x.tolist()}: the sign of a zero changes the block")
    return not case.x.all()


def rows_are_independent(case: Case) -> bool:
    """A row is stored alike alone and among others, where no row shares anything with another."""
    if not theory.rows_stand_alone(case.fmt):
        return False
    x = case.x[:1]
    stack = np.concatenate([x, x[:, ::-1], x])
    level = calibrate(case.fmt, stack)
    alone, _ = case.encode(x, level)
    among, _ = case.encode(stack, level)
    for name, octets in alone.items():
        if not (
            np.array_equal(octets[0], among[name][0]) and np.array_equal(octets[0], among[name][2])
        ):
            raise Mismatch(f"{x.tolist()}: the stream '{name}' depends on other rows")
    return True


def finite_decodes_to_numbers(case: Case) -> bool:
    """No finite tensor decodes to a NaN."""
    _, y = case.encode(case.x)
    if np.isnan(y).any():
        raise Mismatch(f"{case.x.tolist()}: a finite tensor decodes to {y.tolist()}")
    return True


def a_nan_makes_its_block_nan(case: Case) -> bool:
    """Under ``nan propagate`` the block of a NaN decodes to NaNs, and no other does."""
    if case.fmt.policies.nan != "propagate":
        return False
    x = case.x.copy()
    x[-1, x.shape[1] // 2] = np.nan
    compare_with_oracle(case.fmt, case.backend, x, calibrate(case.fmt, x))
    _, y = case.encode(x)
    for place in oracle.block_places(case.fmt, *x.shape):
        index = tuple(zip(*place, strict=True))
        if not (np.isnan(y[index]) == np.isnan(x[index]).any()).all():
            raise Mismatch(f"{x.tolist()} decodes to {y.tolist()}")
    return True


def streams_have_their_sizes(case: Case) -> bool:
    """Every stream has the size that the format alone decides, and bpw counts."""
    streams, _ = case.encode(case.x)
    for name, shape in stream_shapes(case.fmt, *case.x.shape).items():
        if name not in streams or streams[name].shape != shape:
            raise Mismatch(f"{case.x.shape}: the stream '{name}' is not {shape}")
    return True


#: Name -> property.
PROPERTIES: dict[str, Property] = {
    "nearest by exact rationals": nearest_by_exact_rationals,
    "the second level is exact": second_level_is_exact,
    "what was dequantized comes back": dequantized_comes_back,
    "the order in a block is kept": order_is_kept,
    "-x decodes to minus": minus_x_decodes_to_minus,
    "4 x decodes to four times": four_times_x_decodes_to_four_times,
    "a zero's sign changes nothing else": a_zeros_sign_changes_nothing_else,
    "rows are independent": rows_are_independent,
    "finite rows decode to numbers": finite_decodes_to_numbers,
    "a NaN makes its block NaN": a_nan_makes_its_block_nan,
    "streams have their sizes": streams_have_their_sizes,
}


def prove(fmt: Format, backend: Backend, prop: Property, examples: int = EXAMPLES) -> int:
    """Let Hypothesis try to break a property of a format; how many tensors it was about."""
    about = 0

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )
    @given(cases(fmt, backend))
    def attempt(case: Case) -> None:
        nonlocal about
        about += prop(case)

    attempt()
    return about


#: Name -> what holds of a format and a back end on no tensor in particular.
FIXED: dict[str, Callable[[Format, Backend], int]] = {
    "text prints and parses back": lambda fmt, _: checks.text_round_trip(fmt),
    "fields pack and unpack": lambda fmt, _: checks.packing_round_trip(fmt),
    "stores the declared bits": lambda fmt, _: checks.size_is_declared(fmt),
    "decode equals exact rationals": checks.decode_is_exact,
    "ties equal exact rationals": checks.ties_are_exact,
    "every code comes back": checks.codes_return,
}
#: How many values of the costly ones do for a first look.
_QUICK = {"decode equals exact rationals": 40, "ties equal exact rationals": 200}


def check(fmt: Format, backend: Backend, x: F32 | None, examples: int) -> int:
    """See ``fmtc.testing.check``."""
    tried = check_fixed(fmt, backend)
    for name, prop in PROPERTIES.items():
        if x is not None:
            ones = np.ones(x.shape[1], np.float32)
            tried += check_case(name, Case(fmt, backend, x, x, ones))
        else:
            with _told(name, fmt):
                tried += prove(fmt, backend, prop, examples)
    return tried


def check_fixed(fmt: Format, backend: Backend, *, quick: bool = False) -> int:
    """What holds of the format on no tensor in particular."""
    tried = 0
    for name, fixed in FIXED.items():
        with _told(name, fmt):
            if quick and name in _QUICK:
                costly = checks.decode_is_exact if "decode" in name else checks.ties_are_exact
                tried += costly(fmt, backend, _QUICK[name])
            else:
                tried += fixed(fmt, backend)
    return tried


def check_case(name: str, case: Case) -> int:
    """One property of one tensor."""
    with _told(name, case.fmt):
        return int(PROPERTIES[name](case))


@contextmanager
def _told(name: str, fmt: Format) -> Iterator[None]:
    """Says of a mismatch which property it breaks and of which format, as text to copy."""
    try:
        yield
    except Mismatch as difference:
        text = f"{name}: not so on this format:\n\n{fmt.source}\n{difference}"
        raise Mismatch(text) from None
