"""Closed forms against mpmath at 60 digits, and against the published tables that they make."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from fractions import Fraction
from random import Random

import mpmath
import numpy as np
import pytest
from fmtc import FormatError, compile_text
from fmtc.compiler.closed_forms import FUNCTIONS, ClosedForms
from fmtc.compiler.exact import EvaluationError, round_fp32
from fmtc.compiler.normal import SMALLEST_TAIL, half_mass, quantile
from fmtc.dsl import parse
from fmtc.dsl.ast import Expr
from fmtc.dsl.diagnostics import Diagnostic


def expression(text: str) -> Expr:
    tree = parse(f"format f {{ block 16  grid a = codebook 4 {{ {text} }}  scale e4m3 }}")
    return tree.formats[0].clauses[1].atom.values[0]


def values(text: str) -> tuple[Fraction, ...]:
    return ClosedForms().values(expression(text))


def fault(text: str) -> EvaluationError:
    with pytest.raises(EvaluationError) as caught:
        values(text)
    return caught.value


def rounded(value: mpmath.mpf) -> Fraction:
    """A 60-digit number to binary32. It decides: no argument below is within 1e-40 of a tie."""
    sign, mantissa, exponent, _ = value._mpf_
    exact = Fraction(int(mantissa)) * Fraction(2) ** exponent
    return Fraction(round_fp32(-exact if sign else exact))


# -- correct rounding -------------------------------------------------------------------

ELEMENTARY = {
    "sinh": (mpmath.sinh, -20, 20),
    "cosh": (mpmath.cosh, -20, 20),
    "tanh": (mpmath.tanh, -5, 5),
    "exp": (mpmath.exp, -40, 40),
    "log": (mpmath.log, 0, 100),
    "sqrt": (mpmath.sqrt, 0, 100),
    "quantile": (lambda p: mpmath.sqrt(2) * mpmath.erfinv(2 * p - 1), 0, 1),
}


@pytest.mark.parametrize("name", sorted(ELEMENTARY))
def test_a_function_gives_the_nearest_binary32_number(name: str) -> None:
    formula, low, high = ELEMENTARY[name]
    rng = Random(name)
    with mpmath.workdps(60):
        for _ in range(60):
            x = low + Fraction(rng.randint(1, 10**6 - 1), 10**6) * (high - low)
            (found,) = values(f"{name}({x.numerator}/{x.denominator})".replace("(-", "(0-"))
            assert found == rounded(formula(mpmath.mpf(x.numerator) / x.denominator)), x


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        ("sinh(0)", 0),
        ("cosh(0)", 1),
        ("tanh(0)", 0),
        ("exp(0)", 1),
        ("log(1)", 0),
        ("sqrt(9/4)", Fraction(3, 2)),
        ("quantile(1/2)", 0),
        ("1/3 + sqrt(0)", Fraction(1, 3)),
    ],
)
def test_where_a_function_is_rational_its_value_is_exact(text: str, exact: Fraction) -> None:
    assert values(text) == (exact,)


def test_a_vector_of_rationals_stays_exact() -> None:
    thirds = tuple(Fraction(i, 3) for i in range(4))
    assert values("linspace(0, 1, 4)") == thirds
    assert values("reverse(linspace(0, 1, 4))") == thirds[::-1]
    assert values("2*linspace(0, 1, 4) - 1/7") == tuple(2 * v - Fraction(1, 7) for v in thirds)
    assert values("linspace(0, 1, 4)*linspace(0, 1, 4)") == tuple(v * v for v in thirds)
    assert values("linspace(0, 1, 4)^2") == tuple(v * v for v in thirds)
    assert values("normalize(linspace(-1, 5, 3))") == (Fraction(-1, 5), Fraction(2, 5), 1)
    assert values("normalize(-linspace(0, 1, 4))") == tuple(-v for v in thirds)


def test_a_list_is_the_values_of_its_forms_one_after_the_other() -> None:
    text = "format f { block 16  grid a = codebook 3 { -1, linspace(0, 1, 6), 5/4 }  scale e4m3 }"
    found = compile_text(text).grids[0].values
    wanted = [Fraction(-1), *(Fraction(i, 5) for i in range(6)), Fraction(5, 4)]
    assert list(found) == [Fraction(round_fp32(value)) for value in wanted]


def test_the_largest_of_a_normalized_vector_is_exactly_one() -> None:
    for text in (
        "sinh(linspace(-2, 1, 7))",
        "sinh(linspace(-1, 1, 8))",
        "exp(linspace(-3, -2, 5))",
    ):
        assert max(abs(value) for value in values(f"normalize({text})")) == 1


def test_composed_irrational_values_settle_on_the_rational_that_they_are() -> None:
    assert values("exp(log(linspace(2, 5, 4)))") == (2, 3, 4, 5)
    assert values("sqrt(2)^2") == (2,)
    assert values("sqrt(2) - sqrt(2)") == (0,)


def test_two_more_bits_are_taken_until_a_value_is_decided() -> None:
    # 1 + 2^-24 is half-way between two binary32 numbers; 2^-300 more or less decides.
    assert values("1 + 2^-24 + exp(-300)") == (1 + Fraction(2) ** -23,)
    assert values("1 + 2^-24 - exp(-300)") == (1,)


def test_an_irrational_form_of_a_tie_is_refused() -> None:
    error = fault("sqrt(2)^2*(1 + 2^-24)")
    assert (error.code, "half-way between" in str(error.hint)) == ("E0301", True)


# -- the normal distribution ------------------------------------------------------------


def test_the_mass_of_the_normal_distribution_lies_between_its_bounds() -> None:
    rng = Random(3)
    with mpmath.workdps(120):
        for bits in (60, 200, 333):
            for _ in range(20):
                point = Fraction(rng.randint(0, 9 << 20), 1 << 20)
                low, high = half_mass(point, bits)
                x = mpmath.mpf(point.numerator) / point.denominator
                mass = mpmath.erf(x / mpmath.sqrt(2)) / 2
                _, mantissa, exponent, _ = mass._mpf_
                assert low <= Fraction(int(mantissa)) * Fraction(2) ** exponent <= high
                assert high - low < Fraction(1, 1 << (bits - 10))


@pytest.mark.parametrize("tail", [SMALLEST_TAIL, Fraction(1, 10**9), Fraction(1, 3)])
def test_the_bounds_of_a_quantile_hold_it(tail: Fraction) -> None:
    low, high = quantile(tail, 128)
    with mpmath.workdps(100):
        below, above = (mpmath.ncdf(mpmath.mpf(v.numerator) / v.denominator) for v in (low, high))
        assert below < mpmath.mpf(tail.numerator) / tail.denominator < above
    assert 0 < high - low <= Fraction(1, 1 << 117)
    assert quantile(1 - tail, 128) == (-high, -low)


# -- published tables -------------------------------------------------------------------

OFFSET = "0.9677083"
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
    *(0.7229568362236023, 1.0),
)


def test_nf4_is_its_construction_to_two_units_of_the_last_place() -> None:
    """QLoRA, arXiv:2305.14314, appendix E. bitsandbytes rounds the probabilities to binary32."""
    below = values(f"-quantile(linspace({OFFSET}, 1/2 + ({OFFSET} - 1/2)/7, 7))/quantile({OFFSET})")
    above = values(f"quantile(linspace(1/2, {OFFSET}, 9))/quantile({OFFSET})")
    found = [float(value) for value in (*below, *above)]
    worst = max(abs(a - b) for a, b in zip(found, NF4, strict=True))
    assert 0 < worst < NF4_WORST


NF4_WORST = 1.2e-7  # in the values around 0.7; their last place is 6e-8

SH4 = (
    *(-1.0, -0.7995156, -0.6307451, -0.4869151, -0.3622534, -0.2517566, -0.1509903, -0.0559102),
    *(0.0372994, 0.1323794, 0.2331457, 0.3436425, 0.4683043, 0.6121342, 0.7809047, 0.9813891),
)


def test_sh4_is_the_sinh_that_sop_states() -> None:
    found = values("normalize(sinh(3/2*linspace(-1, 1, 16)) - 1/50)")
    assert max(abs(float(a) - b) for a, b in zip(found, SH4, strict=True)) < 1e-7


#: BOF4-S, arXiv:2505.06653, the levels of least squared error for blocks of 16.
BOF4S_16 = (
    *(-0.8867418, -0.7102949, -0.5628647, -0.4337303, -0.3165589, -0.2071602, -0.1024672, 0.0),
    *(0.0964974, 0.1948502, 0.2971005, 0.4057139, 0.5239438, 0.6564776, 0.8107474, 1.0),
)


def test_lloyd_for_a_signed_scale_gives_the_levels_of_bof4s() -> None:
    found = values("lloyd_signed(16, 16)")
    assert max(abs(float(a) - b) for a, b in zip(found, BOF4S_16, strict=True)) < 1e-7


def test_lloyd_with_three_levels_has_nothing_to_choose() -> None:
    assert values("lloyd(3, 64)") == (-1, 0, 1)


def test_lloyds_levels_are_the_centroids_of_their_cells() -> None:
    """The integrals of the stated density once more, in binary64 over a plane of y and m."""
    from fmtc.compiler.block_optimal import levels

    found = np.array([float(level) for level in levels(6, 4, False)])
    edges = (found[1:] + found[:-1]) / 2
    nodes, weights = np.polynomial.legendre.leggauss(120)
    m, for_m = 6 * (nodes + 1), 6 * weights
    inside = np.array([math.erf(value / math.sqrt(2)) for value in m]) ** 2
    for level, low, high in zip(found[1:-1], edges[:-1], edges[1:], strict=True):
        y, for_y = (low + high) / 2 + (high - low) / 2 * nodes, (high - low) / 2 * weights
        density = (m**3 * np.exp(-((y[:, None] * m) ** 2 + m**2) / 2) * inside) @ for_m * for_y
        if level:
            assert (density @ y) / density.sum() == pytest.approx(level, abs=1e-12)


#: The two levels beside zero for blocks of other sizes, absolute and signed.
BESIDE_ZERO = {
    8: (-0.1146076, -0.106538, 0.1001981),
    32: (-0.1059693, -0.0981755, 0.0926251),
    64: (-0.1015641, -0.0938558, 0.0887642),
    128: (-0.0973038, -0.089632, 0.085031),
}


@pytest.mark.slow
@pytest.mark.parametrize("block", sorted(BESIDE_ZERO))
def test_lloyd_gives_the_published_levels_for_every_block(block: int) -> None:
    absolute, signed = values(f"lloyd(16, {block})"), values(f"lloyd_signed(16, {block})")
    found = (float(absolute[6]), float(signed[6]), float(absolute[8]))
    assert found == pytest.approx(BESIDE_ZERO[block], abs=1e-7)
    assert absolute[8:] == signed[8:]


# -- what is refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("log(0)", 5, "log of 0 has no real value"),
        ("log(linspace(-1, 1, 4))", 5, "log of -1 has no real value"),
        ("sqrt(1 - 2)", 6, "sqrt of -1 has no real value"),
        ("quantile(1)", 10, "quantile of 1 has no value"),
        ("quantile(sqrt(2))", 10, "quantile of"),
        ("exp(1001)", 5, "an argument of 1001 is too large"),
        ("1/linspace(0, 1, 2)", 3, "division by zero"),
        ("1/(sqrt(2) - sqrt(2))", 4, "division by a number that may be zero"),
        ("normalize(0*linspace(0, 1, 2))", 11, "normalize of zeros divides by zero"),
        ("linspace(0, 1, 257)", 16, "the number of values cannot be 257"),
        ("linspace(0, 1, 5/2)", 16, "the number of values cannot be 2.5"),
        ("linspace(linspace(0, 1, 2), 1, 3)", 10, "an end of linspace is one number"),
        ("2^sqrt(2)", 3, "an exponent must be rational"),
        ("sqrt(2)^(1/2)", 10, "the exponent 0.5 is no integer"),
        ("lloyd(2, 16)", 7, "the number of levels cannot be 2"),
        ("lloyd(16, 1)", 11, "a block cannot be 1"),
        ("sinh(1, 2)", 1, "'sinh' takes 1 argument, not 2"),
        ("sinus(1)", 1, "no function is called 'sinus'"),
        ("exp(1000)^100", 1, "a number here is far out of range"),
        ("linspace(0, 1, 3) + linspace(0, 1, 4)", 1, "3 values and 4 values do not go together"),
    ],
)
def test_what_has_no_value_is_refused_where_it_stands(text: str, column: int, message: str) -> None:
    error = fault(text)
    assert error.code == "E0301"
    assert error.message.startswith(message)
    before = "format f { block 16  grid a = codebook 4 { "
    assert error.span.column in (len(before) + column, len(before) + column - 1)


def test_a_misspelt_function_is_answered_with_the_right_one() -> None:
    for name in FUNCTIONS:
        assert fault(f"{name}s(1)").hint == f"did you mean '{name}'?"


@pytest.mark.parametrize("name", ["vector", "vec2", "lattice", "e8p", "tuple"])
def test_codebooks_of_vectors_are_out_of_scope(name: str) -> None:
    error = fault(f"{name}(1, 2)")
    assert (error.code, "out of scope" in str(error.hint)) == ("E0202", True)


def faults_of(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(FormatError) as caught:
        compile_text(text)
    return caught.value.diagnostics


def test_closed_forms_stand_in_codebooks_only() -> None:
    found = faults_of("format f { block sqrt(256)  grid e2m1  scale e4m3 }")
    assert [(fault.code, fault.message) for fault in found] == [
        ("E0301", "'sqrt(...)' is not evaluated here")
    ]


def test_every_faulty_form_of_a_list_is_reported() -> None:
    found = faults_of(
        "format f { block 16  grid a = codebook 2 { log(0), sqrt(2), 1/0, tan(1) }  scale e4m3 }"
    )
    assert [fault.code for fault in found] == ["E0301"] * 3


@pytest.mark.parametrize(
    ("form", "count"),
    [
        ("linspace(0, 1, 256)" + "+linspace(0, 1, 256)" * 40, 10),
        ("quantile(linspace(1/9, 8/9, 64))", 40),
        ("sqrt(2)^2*(1 + 2^-24)*exp(linspace(1, 2, 255)) + sqrt(2)^2", 9),
        ("lloyd(32, 4096)", 5),
    ],
)
def test_a_list_can_ask_for_so_much_work_and_no_more(form: str, count: int) -> None:
    forms = ClosedForms(work=1 << 14)
    tree = expression(form)
    start = time.perf_counter()

    def evaluate_the_list() -> None:
        for _ in range(count):
            forms.values(tree)

    with pytest.raises(EvaluationError, match="takes too long"):
        evaluate_the_list()
    assert time.perf_counter() - start < 20


def test_plain_formats_are_compiled_without_mpmath() -> None:
    code = (
        "import sys; from fmtc import compile_text; "
        "compile_text('format f { block 16  grid a = codebook 2 { -1, 0, 1/3, 1 }  scale e4m3 }'); "
        "sys.exit('mpmath' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
