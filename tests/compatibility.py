"""Byte compatibility with peers: the comparisons, and the table of their outcomes.

A comparison is a function without arguments that stores the same numbers with fmtc and with a
peer (or reads the same bytes with both) and counts the blocks in which any byte differs:

    @comparison("gguf", "quants.quantize(Q4_0)", "q4_0")
    def q4_0_bytes() -> Outcome:
        return blocks, differing, "what was compared"

It stands in the ``test_oracles_*.py`` of its peer, which ends with ``run_comparisons(__name__)``
as a test. ``docs/compatibility.md`` is rendered from the same list, so every row there is an
assertion here; ``FMTC_REGEN=1 pytest tests/test_compatibility_table.py`` rewrites it. The inputs
are seeded: a row never changes without a change of code.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

#: Blocks compared, blocks of these with a differing byte, and a note for the table.
Outcome = tuple[int, int, str]

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "compatibility.md"

#: The distribution that a peer's version is asked of, and how its name is spelled.
PEERS = {
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "fouroversix": "fouroversix",
    "gfloat": "gfloat",
    "ggml (C)": "llama_cpp_python",
    "gguf": "gguf",
    "ml_dtypes": "ml_dtypes",
    "modelopt": "nvidia-modelopt",
    "pychop": "pychop",
    "torch": "torch",
    "torchao": "torchao",
    "transformers": "transformers",
}

HEADER = """\
# Compatibility

What fmtc's shipped recipes store and read, beside the libraries that define them. Every row is a
test: the same numbers (random blocks, every tie, the fp32 neighbours of ties and of scales, zero,
subnormal and huge blocks, all seeded) go through both, and a block differs when any of its bytes
does. "Differing" is asserted, so a difference that is known stays known and explained.

This file is generated: `FMTC_REGEN=1 pytest tests/test_compatibility_table.py`.
"""


@dataclass(frozen=True)
class Comparison:
    """One row of the table: a peer's function, our recipe, and how they are compared."""

    peer: str
    function: str
    recipe: str
    expected: int
    module: str
    compare: Callable[[], Outcome]

    def __str__(self) -> str:
        return f"{self.recipe}-{self.peer}-{self.function}".replace(" ", "_")

    @property
    def key(self) -> tuple[str, str, str]:
        return self.peer, self.recipe, self.function

    def run(self) -> Row:
        """The row of this comparison; a peer that is not installed skips the test."""
        return _row(self.key)

    def check(self) -> None:
        """Runs it: the asserted number of blocks differ, and the document says so."""
        row = self.run()
        assert row.blocks > 0, f"{self}: nothing was compared"
        assert row.differing == self.expected, f"{self}: {row.differing} of {row.blocks} differ"
        text = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.is_file() else ""
        assert row.markdown in text.splitlines(), (
            f"docs/compatibility.md lacks\n{row.markdown}\n"
            "FMTC_REGEN=1 pytest tests/test_compatibility_table.py writes it"
        )


@dataclass(frozen=True)
class Row:
    """One measured line of docs/compatibility.md."""

    peer: str
    version: str
    function: str
    recipe: str
    blocks: int
    differing: int
    note: str

    @property
    def markdown(self) -> str:
        cells = (
            f"{self.peer} {self.version}",
            f"`{self.function}`",
            f"`{self.recipe}`",
            f"{self.blocks:,}",
            f"{self.differing:,}",
            self.note,
        )
        return "| " + " | ".join(cells) + " |"


#: Every comparison that has been declared, by its key. Importing a test module adds its own.
COMPARISONS: dict[tuple[str, str, str], Comparison] = {}


def comparison(
    peer: str, function: str, recipe: str, differing: int = 0
) -> Callable[[Callable[[], Outcome]], Callable[[], Outcome]]:
    """Registers a comparison with ``peer``'s ``function``; ``differing`` blocks may differ."""
    assert peer in PEERS, f"{peer} is not in PEERS"

    def register(compare: Callable[[], Outcome]) -> Callable[[], Outcome]:
        module = compare.__module__.rpartition(".")[2]
        one = Comparison(peer, function, recipe, differing, module, compare)
        known = COMPARISONS.get(one.key)
        # pytest and the table import a test module once each: the same one may come twice.
        assert known is None or known.module == module, f"{one} is declared twice"
        COMPARISONS[one.key] = one
        return compare

    return register


def record(
    *, peer: str, function: str, version: str, recipe: str, blocks: int, differing: int, note: str
) -> Row:
    """The row that a comparison came to. Notes are one cell of a table."""
    assert not set("|\n") & set(note), f"{recipe}: a note is one cell of a table"
    return Row(peer, version, function, recipe, blocks, differing, note)


@functools.cache
def _row(key: tuple[str, str, str]) -> Row:
    one = COMPARISONS[key]
    blocks, differing, note = one.compare()
    return record(
        peer=one.peer,
        function=one.function,
        version=importlib.metadata.version(PEERS[one.peer]),
        recipe=one.recipe,
        blocks=blocks,
        differing=differing,
        note=note,
    )


def run_comparisons(module: str) -> Callable[..., None]:
    """A test over every comparison that ``module`` (its ``__name__``) declares."""
    stem = module.rpartition(".")[2]
    mine = [one for one in in_order() if one.module == stem]
    assert mine, f"{stem} declares no comparison"

    @pytest.mark.parametrize("one", mine, ids=str)
    def test_the_peer_stores_and_reads_the_same_bytes(one: Comparison) -> None:
        one.check()

    return test_the_peer_stores_and_reads_the_same_bytes


def in_order() -> list[Comparison]:
    """The comparisons declared so far, in the order of the table."""
    return [COMPARISONS[key] for key in sorted(COMPARISONS)]


def load_all() -> list[Comparison]:
    """Every comparison of every ``test_oracles_*.py``, in the order of the table."""
    for file in sorted(HERE.glob("test_oracles_*.py")):
        if "run_comparisons(" in file.read_text(encoding="utf-8"):
            importlib.import_module(file.stem)
    return in_order()


def render(rows: list[Row]) -> str:
    """The whole document."""
    lines = [HEADER]
    lines += [
        "| peer | function | recipe | blocks | differing | what |",
        "|---|---|---|--:|--:|---|",
    ]
    return "\n".join([*lines, *(row.markdown for row in rows)]) + "\n"


def peer_module(name: str, peer: str | None = None) -> Any:
    """Imports a peer without its warnings; skips the test where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"the peer {peer or name} is not installed")


def differing_rows(one: NDArray[Any], two: NDArray[Any]) -> int:
    """In how many rows of two byte matrices [blocks, bytes] any byte differs."""
    one, two = np.atleast_2d(one), np.atleast_2d(two)
    assert (one.shape, one.dtype, two.dtype) == (two.shape, np.uint8, np.uint8), (
        f"{one.dtype}{one.shape} and {two.dtype}{two.shape} are not the same bytes"
    )
    return int((one != two).any(axis=1).sum())


def differing_floats(one: NDArray[Any], two: NDArray[Any]) -> int:
    """In how many rows of two binary32 matrices any bit differs, NaN payloads apart."""
    assert one.shape == two.shape
    assert one.dtype == two.dtype == np.float32
    same = (one.view(np.uint32) == two.view(np.uint32)) | (np.isnan(one) & np.isnan(two))
    return int((~same).any(axis=1).sum())
