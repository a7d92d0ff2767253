"""A seeded mutation fuzzer of the language, from its characters to the compiled format."""

from __future__ import annotations

import functools
import random
import re
import resource
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import fmtc
from fmtc.compiler.resolve import compile_text
from fmtc.dsl import FormatError, parse, parse_partial, print_file
from fmtc.dsl.sop import is_sop, parse_sop
from fmtc.formats.files import loader

ROOT = Path(fmtc.__file__).parent
FOLDERS = ("formats", "tests/fmt", "tests/bad")

_WORDS = """
format import atom extends cite grid scale zero select side record as learned
block tile host rule absmax argmax range tensor shift auto min search over center
codebook int hif7 e2m1 e4m3 ue4m4 e8m0 fp32 nf4 times order negated replace snap
bit bits at scale.sign scale.meta field point minimum opq wr codes scales
0 1 2 4 16 256 4097 -1 0.5 7/8 2^-6 1e-3 1e999 2^999 9e99 2x .5 1. 0x10 1_0
{ } { } ( ) , : = . + - * / ^ ; [ ] @ # // /* \\ ' " "open "nf4" "../x.fmt"
at(8,5) linspace(-1,1,16) normalize( sinh( quantile(2) f( f ( ö − \0 \ufeff \u2028 \U0001f600
"""
#: What mistakes are made of: every word and sign of the language, and what it does not have.
PIECES = (*_WORDS.split(), "\t", "\r", "\r\n", "\n", "\n\n", " ", "\xa0")
_SOP_WORDS = """
NF4 DD4 SH4 BOF4-S IQ4_NL HIF7 HIF8 E2M3 E4M3 INT4 Split87 NF9 - - | | | ^ ^16 ^0 ^x
s sUE4M3 sUE4M4 sS1E5M5 sE9M9 + +knap0.10 +knap .OPQ .OPQ0.9 .Wr .Wr1
"""
SOP_PIECES = tuple(_SOP_WORDS.split())

#: Small sound files, which an edit or two may leave sound.
SEEDS = tuple(
    """
format a { block 16  grid e2m1  scale e4m3 { rule absmax  tensor fp32 }  nan propagate }

format a "t" { cite "c"  block 8  grid a = codebook 2 { -1, -1/4, 1/4, 1 }  scale fp32 }

format a { block 16  grid a = int 4 { range full }  grid b = a { order negated  times 2 }
  scale s1e5m5 { rule argmax  shift auto }  select 1 bit at scale.meta { 0: a, 1: b } }

atom a = codebook 1 { -1, 1 } learned { method lloyd }
format x { block 4  grid a  grid b = a { plus 1/2 }  scale ue4m3
  select 1 bit at scale.meta { 0: a, 1: b } }

format a { block 32  grid a = int 4 { range unsigned }  scale fp32 { rule range }
  zero point { bits 4 }  compare fp32_quotient }

format a { block 32  grid a = int 4 { range unsigned }  scale fp32 { rule range } as {
  block 8  grid i = int 6 { range unsigned }  scale fp32 } zero minimum { sign negated } as {
  block 8  grid i = int 6 { range unsigned }  scale fp32 } }

format a { block 16  grid e2m1  scale ue4m4 { shift auto }  side opq { quantile 0.9 }  side wr }

format a { block 32  grid e2m1  scale e8m0 { rule floor_log2 }
  record 32 { scales, codes { order halves  run 32 } } }

import "nf4"
format a extends "nvfp4" { grid nf4  scale e4m3 { search 1 } }

format a { block row  grid hif7  host hif7  scale e5m3 { min 2^-6  underflow minimum } }
""".strip().split("\n\n")
)
#: Scale words with so many codes that the compiler takes long over each.
_WIDE = re.compile(r"scale\s+(bf16|fp16|\w*e\d+m([6-9]|1\d))")


@functools.cache
def corpus() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Every .fmt file of the house, and every line that stands in one of them."""
    paths = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.fmt"))
    files = tuple(path.read_text(encoding="utf-8") for path in paths)
    lines = {line for text in files for line in text.splitlines() if len(line) < 120}
    return files, tuple(sorted(line for line in lines if not _WIDE.search(line)))


class Mutator:
    """Texts that are nearly right, one after the other; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def text(self) -> str:
        choice = self.random.random()
        if choice < 0.005:
            return self.mutated(self.random.choice(corpus()[0]))
        if choice < 0.40:
            return self.mutated(self.random.choice(SEEDS))
        if choice < 0.70:
            return self.mutated(self.lines())
        if choice < 0.85:
            pieces = self.random.choices(PIECES, k=self.random.randint(1, 25))
            return self.random.choice(("", " ", " ", "\n")).join(pieces)
        junk = self.random.randbytes(self.random.randint(0, 40))
        return junk.decode(self.random.choice(("utf-8", "latin-1", "utf-16")), "replace")

    def lines(self) -> str:
        """A format of a few lines, taken from anywhere."""
        lines = self.random.choices(corpus()[1], k=self.random.randint(1, 3))
        head = self.random.choice(("", "format x {", 'format x "t" extends "mxfp4" {'))
        return "\n".join((head, *lines, "}" * self.random.randint(0, 2)))

    def mutated(self, text: str) -> str:
        for _ in range(self.random.choice((1, 1, 1, 2, 3))):
            start = self.random.randint(0, len(text))
            stop = start + self.random.choice((0, 0, 0, 1, 2, 5, 12, 40))
            text = text[:start] + self.piece(text, start, stop) + text[stop:]
        return text

    def piece(self, text: str, start: int, stop: int) -> str:
        """What is put in the place of a stretch of text."""
        choice = self.random.random()
        if choice < 0.3:
            return ""
        if choice < 0.8:
            return self.random.choice(("", " ")) + self.random.choice(PIECES) + " "
        return text[start:stop] * 2 if choice < 0.9 else self.random.choice(corpus()[1])

    def sop(self) -> str:
        return "".join(self.random.choices(SOP_PIECES, k=self.random.randint(1, 8)))


@dataclass
class Findings:
    """What an attack found: crashes with their texts, and what the worst text cost."""

    inputs: int = 0
    sound: int = 0
    crashes: list[str] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")
    peak_mb: float = 0.0


def attack(seed: int, count: int) -> Findings:
    """Feed ``count`` texts to the parser, the printer and the compiler."""
    mutator = Mutator(seed)
    found = Findings()
    shipped = loader()
    for index in range(count):
        text = mutator.sop() if index % 4 == 0 else mutator.text()
        start = time.process_time()
        try:
            if index % 4 == 0:
                _read_sop(text)
            elif index % 8 == 1:
                _read_and_print(text)
            else:
                compile_text(text, "fuzz.fmt", shipped if index % 8 == 2 else None)
            found.sound += 1
        except FormatError as error:
            found.codes.update(fault.code for fault in error.diagnostics)
        except Exception:  # noqa: BLE001 - whatever it is, it is a find
            found.crashes.append(f"{text!r}\n{traceback.format_exc(limit=-4)}")
            if len(found.crashes) >= 5:
                break
        found.slowest = max(found.slowest, (time.process_time() - start, text))
        found.inputs += 1
    found.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def _read_sop(text: str) -> None:
    is_sop(text)
    file = parse_sop(text)
    if parse(print_file(file)) != file:
        raise AssertionError(print_file(file))


def _read_and_print(text: str) -> None:
    parsed = parse_partial(text)
    if parse(print_file(parsed.file)) != parsed.file:
        raise AssertionError(print_file(parsed.file))
    if parsed.diagnostics:
        raise FormatError(parsed.diagnostics, text, "fuzz.fmt")
