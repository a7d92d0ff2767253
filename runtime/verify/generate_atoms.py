"""Hypothesis strategies for the grids of a format: atoms of every kind, and others made of them."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

#: Atoms by width; every convention of a float and of an integer is among them.
_FLOATS = {
    1: [],
    2: ["e1m0", "ue1m1", "ue2m0"],
    3: ["e2m0", "e1m1", "ue2m1", "e1m1 { subnormals off }"],
    4: [
        *("e2m1", "e1m2", "e3m0", "ue2m2", "e2m1 { bias 3 }", "e2m1 { top nan }"),
        *("e2m1 { top reserved }", "e1m2 { subnormals off }"),
    ],
    5: ["e2m2", "e3m1", "e2m2 { top ieee }", "ue3m2"],
    6: ["e2m3", "e3m2", "ue3m3"],
    7: ["e3m3", "ue4m3", "hif7"],
    8: ["e4m3", "e5m2", "e3m4", "hif8"],
}
_RANGES = ("", " { range full }", " { range offset }", " { range unsigned }")
#: Lists of 2^width values by closed forms; cheap ones.
_FORMS = (
    "linspace(-1, 1, {n})",
    "normalize(sinh(3/2 * linspace(-1, 1, {n})))",
    "quantile(linspace(1/10, 9/10, {n}))",
    "tanh(linspace(-1, 2, {n}))",
    "reverse(exp(linspace(-1, 1, {n}))) - 1",
    "sqrt(linspace(1, 4, {n})) - 3/2",
)
_TRANSFORMS = (
    "order negated",
    "order mirrored",
    "times 2",
    "times 3/4",
    "plus 1/2",
    "times 1/2  plus 1/4",
    "replace at(0, 5)",
    "snap e4m3",
)


@dataclass(frozen=True, slots=True)
class Atoms:
    """Texts of grids of one width, and what they allow.

    Attributes:
        texts: the atoms.
        mirrors: every grid has a negative value for certain.
        floats: every grid is a float of one mantissa.
        consecutive: every grid is a run of integers.
    """

    texts: tuple[str, ...]
    mirrors: bool
    floats: bool
    consecutive: bool


@st.composite
def atoms(draw: st.DrawFn, width: int, count: int, integers: bool) -> Atoms:
    """The grids of a format: ``count`` atoms of ``width`` bits, some made of the first."""
    first = draw(_integers(width) if integers else _atom(width))
    texts = [first]
    for _ in range(count - 1):
        if not integers and draw(st.integers(0, 3)) == 3:
            # A grid without negative values, negated, would have no positive one.
            ways = _TRANSFORMS[0 if _mirrors(first) else 2 :]
            texts.append(f"g0 {{ {draw(st.sampled_from(ways))} }}")
        else:
            texts.append(draw(_integers(width) if integers else _atom(width)))
    return Atoms(
        tuple(texts),
        mirrors=all(map(_mirrors, texts)),
        floats=first[0] == "e" and all(text.split()[0] == first.split()[0] for text in texts),
        consecutive=all(text.startswith("int") for text in texts),
    )


def _mirrors(text: str) -> bool:
    kind = text.split(maxsplit=1)[0]
    return kind != "g0" and kind[0] != "u" and "unsigned" not in text


def _integers(width: int) -> st.SearchStrategy[str]:
    # One bit holds 0 and -1, which has no positive value: only an unsigned one has.
    ranges = _RANGES if width > 1 else _RANGES[-1:]
    return st.sampled_from([f"int {width}{said}" for said in ranges])


def _atom(width: int) -> st.SearchStrategy[str]:
    forms = [f"codebook {width} {{ {form.format(n=1 << width)} }}" for form in _FORMS]
    lists = [_codebooks(width)] if width <= 4 else []
    floats = [st.sampled_from(_FLOATS[width])] if _FLOATS[width] else []
    return st.one_of(*floats, _integers(width), *lists, *([st.sampled_from(forms)] * (width < 7)))


@st.composite
def _codebooks(draw: st.DrawFn, width: int) -> str:
    """A codebook of dyadic values in any order, some said twice, of both signs."""
    count = 1 << width
    small = draw(st.booleans())
    least, most = (-7, 7) if small else (-1000, 1000)
    values = draw(st.lists(st.integers(least, most), min_size=count - 2, max_size=count - 2))
    values += [draw(st.integers(least, -1)), draw(st.integers(1, most))]
    unit = draw(st.sampled_from(["", "/8", "/1024", "*3/4", "*2^20"]))
    shuffled = draw(st.permutations(values))
    return f"codebook {width} {{ " + ", ".join(f"{v}{unit}" for v in shuffled) + " }"
