"""A seeded mutation fuzzer of the language, from its characters to the compiled format."""

from __future__ import annotations

import functools
import random
import resource
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import fmtc
from fmtc.compiler.resolve import compile_text
from fmtc.dsl import FormatError, parse_partial, print_file
from fmtc.dsl.sop import is_sop, parse_sop
from fmtc.formats.files import loader

ROOT = Path(fmtc.__file__).parent
FOLDERS = ("formats", "tests/fmt", "tests/bad")

#: What mistakes are made of: every word and sign of the language, and what it does not have.
PIECES = (
    *"format import atom extends cite grid scale zero select side record as learned".split(),
    *"block tile host rule absmax argmax range tensor shift auto min search over center".split(),
    *"codebook int hif7 e2m1 e4m3 ue4m4 e8m0 fp32 nf4 times order negated replace snap".split(),
    *"bit bits at scale.sign scale.meta field point minimum opq wr codes scales".split(),
    *"0 1 2 4 16 256 4097 -1 0.5 7/8 2^-6 1e-3 1e999 2^999 9e99 2x .5 1. 0x10 1_0".split(),
    *"{ } { } ( ) , : = . + - * / ^ ; [ ] @ # // /* \\ ' \" \"open \"nf4\" \"../x.fmt\"".split(),
    *("at(8,5)", "linspace(-1,1,16)", "sinh(", "lloyd(16,16)", "quantile(2)", "f(", "f (1)"),
    *("ö", "−", "\x00", "\t", "\r", "\r\n", "\n", "\n\n", "\ufeff", "\u2028", "\U0001f600", " "),
)
SOP_PIECES = (
    *"NF4 DD4 SH4 BOF4-S IQ4_NL HIF7 HIF8 E2M3 E4M3 INT4 Split87 NF9".split(),
    *"| | ^ ^16 ^0 ^x s sUE4M3 sUE4M4 sS1E5M5 sE9M9 + +knap0.10 +knap .OPQ .OPQ0.9 .Wr .Wr1 -".split(),
)


@functools.cache
def corpus() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Every .fmt file of the house, and every line that stands in one of them."""
    paths = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.fmt"))
    files = tuple(path.read_text(encoding="utf-8") for path in paths)
    lines = {line for text in files for line in text.splitlines() if len(line) < 120}
    return files, tuple(sorted(lines))


class Mutator:
    """Texts that are nearly right, one after the other; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def text(self) -> str:
        choice = self.random.random()
        if choice < 0.03:
            return self.mutated(self.random.choice(corpus()[0]))
        if choice < 0.70:
            return self.mutated(self.small())
        if choice < 0.85:
            pieces = self.random.choices(PIECES, k=self.random.randint(1, 25))
            return self.random.choice(("", " ", " ", "\n")).join(pieces)
        size = self.random.randint(0, 60)
        return self.random.randbytes(size).decode(self.random.choice(("utf-8", "latin-1")), "replace")

    def small(self) -> str:
        """A format of a few lines, taken from anywhere."""
        lines = self.random.choices(corpus()[1], k=self.random.randint(1, 4))
        base = self.random.choice(("format x {", 'format x "t" extends "mxfp4" {', "atom a = e2m1 {"))
        closing = "}" * self.random.randint(0, 2)
        return "\n".join((base, *lines, closing)) if self.random.random() < 0.8 else "\n".join(lines)

    def mutated(self, text: str) -> str:
        for _ in range(self.random.randint(1, 3)):
            start = self.random.randint(0, len(text))
            stop = start + self.random.choice((0, 0, 1, 2, 5, 12, 40))
            piece = self.random.choice(("", "", " ", text[start:stop] * 2, *self.some()))
            text = text[:start] + piece + text[stop:]
        return text

    def some(self) -> tuple[str, ...]:
        other = self.random.choice(corpus()[1])
        return (*self.random.choices(PIECES, k=3), f" {self.random.choice(PIECES)} ", other)

    def sop(self) -> str:
        return "".join(self.random.choices(SOP_PIECES, k=self.random.randint(1, 8)))


@dataclass
class Findings:
    """What an attack found: crashes with their texts, and what the worst text cost."""

    inputs: int = 0
    compiled: int = 0
    sound: int = 0
    crashes: list[str] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")
    peak_mb: float = 0.0


def attack(seed: int, count: int) -> Findings:
    """Feed ``count`` texts to the parser, the printer and the compiler."""
    mutator = Mutator(seed)
    found = Findings()
    corpus()
    reader = loader()
    for index in range(count):
        text = mutator.sop() if index % 8 == 0 else mutator.text()
        start = time.process_time()
        try:
            if index % 8 == 0:
                _read_sop(text, found)
            elif index % 8 == 1:
                _read_and_print(text, found)
            else:
                found.compiled += 1
                compile_text(text, "fuzz.fmt", reader if index % 8 == 2 else None)
                found.sound += 1
        except FormatError as error:
            found.codes.update(fault.code for fault in error.diagnostics)
        except Exception:  # noqa: BLE001
            found.crashes.append(f"{text!r}\n{traceback.format_exc(limit=-4)}")
            if len(found.crashes) >= 5:
                break
        found.slowest = max(found.slowest, (time.process_time() - start, text))
        found.inputs += 1
    found.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def _read_sop(text: str, found: Findings) -> None:
    is_sop(text)
    printed = print_file(parse_sop(text))
    found.sound += 1
    if parse_partial(printed).diagnostics:
        raise AssertionError(printed)


def _read_and_print(text: str, found: Findings) -> None:
    parsed = parse_partial(text)
    found.sound += not parsed.diagnostics
    again = parse_partial(print_file(parsed.file))
    if again.diagnostics or again.file != parsed.file:
        raise AssertionError(print_file(parsed.file))
