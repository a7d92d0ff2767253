"""Machine code of NVIDIA GPUs read as text: instructions, pipes and loops, without a GPU.

``nvdisasm``, which comes in the triton wheel, prints a cubin; this module reads what it prints.
What a loop costs is then a number that a test can hold: instructions a weight, by the unit that
takes them.

``PIPES`` says which unit an instruction is issued to, for sm_80 to sm_120. Sources: the metrics
``sm__inst_executed_pipe_*`` of Nsight Compute ("Pipelines" in its Profiling Guide), and the
instruction tables of the CUDA Binary Utilities. Four lines are choices:

* ``IMAD`` is a multiply-add and shares the unit of the floating ones; the assembler likes it for
  moves and shifts (``IMAD.MOV``, ``IMAD.SHL``, ``IMAD.U32``), which are thus "fma" too.
* ``HADD2.F32`` converts a half, and is counted where it runs: "fma".
* ``F2FP`` and ``I2FP``, which some architectures do at the rate of integer work, are counted
  under "convert" as the slow ``I2F`` and ``F2F`` are.
* The assembler unrolls: a loop's count is of one pass through its text, which may be several
  of the source's. Divide by what it does (its loads, its products).
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

_NAMES = {
    "int": """LOP LOP3 LOP32I PLOP3 SHF SHL SHR PRMT IADD IADD3 IADD32I VIADD LEA SEL FSEL ISETP
        FSETP HSETP2 FSET HSET2 ISET IMNMX VIMNMX VIMNMX3 FMNMX FMNMX3 HMNMX2 VHMNMX IABS SGXT BMSK
        BFE BFI ISCADD LOP3U P2R R2P PSETP PSET FCHK VABSDIFF VABSDIFF4 VOTE VIADDMNMX""",
    "fma": """FFMA FFMA2 FFMA32I FMUL FMUL2 FMUL32I FADD FADD2 FADD32I FSWZADD IMAD IMAD32I IMUL
        HFMA2 HFMA2_32I HMUL2 HMUL2_32I HADD2 HADD2_32I""",
    "double": "DADD DFMA DMUL DMNMX DSETP DMMA",
    "convert": "F2FP F2F F2I F2IP I2F I2FP I2I I2IP FRND MUFU POPC FLO BREV",
    "memory": """LDG LDS LDL LD LDC LDSM LDGSTS LDTM STG STS STL ST STSM STTM STAS ATOM ATOMG ATOMS
        RED REDG REDAS MATCH CCTL CCTLL CCTLT QSPC TEX TLD TLD4 TXQ SULD SUST SURED UBLKCP
        UBLKPF UBLKRED UTMALDG UTMASTG UTMAPF UTMAREDG UTMACCTL""",
    "shuffle": "SHFL",
    "tensor": "HMMA IMMA BMMA HGMMA IGMMA BGMMA QGMMA QMMA OMMA",
    "control": """BRA BRX BRXU JMP JMX JMXU CALL RET EXIT KILL BAR B2R BSSY BSYNC BREAK BMOV NOP
        WARPSYNC WARPGROUP WARPGROUPSET DEPBAR LDGDEPBAR LDTMDEPBAR ARRIVES SYNCS SYNCSU MEMBAR
        FENCE ERRBAR YIELD NANOSLEEP BPT ELECT ENDCOLLECTIVE ACQBULK ACQSHMINIT CGAERRBAR
        UCGABAR_ARV UCGABAR_WAIT PREEXIT PMTRIG RPCMOV RTT SETCTAID SETMAXREG USETMAXREG""",
    "uniform": "R2UR S2UR VOTEU LDCU REDUX CREDUX",
    "move": "MOV MOV32I MOVM CS2R CS2UR S2R AL2P GETLMEMBASE LEPC SETLMEMBASE",
    "dp4a": "IDP IDP4A",
}

#: The pipe of an opcode; those of the uniform unit (U...) and tensor core 5 (UTC...) go by prefix.
PIPES: Mapping[str, str] = {name: pipe for pipe, names in _NAMES.items() for name in names.split()}

_ADDRESS = re.compile(r"^\s*/\*(?P<address>[0-9a-f]{4,})\*/(?P<rest>.*)$")
_INSTRUCTION = re.compile(
    r"\s*(?P<text>(?:(?P<predicate>@!?U?P(?:\d+|T))\s+)?(?P<opcode>[A-Z][A-Z0-9_]*)"
    r"(?P<modifiers>(?:\.\w+)*)(?:\s[^;]*?)?)\s*(?:[?&]\S+\s*)*;"
)
_LABEL = re.compile(r"^\s*(?P<name>[.$\w]+):\s*$")
_TARGET = re.compile(r"`\((?P<name>[^)]+)\)")
_JUMPS = ("BRA", "JMP")
_ENDS = ("EXIT", "RET", "KILL", "BRX", "BRXU", "JMX", "JMXU")


class SassError(RuntimeError):
    """Machine code could not be read; the message says what stood in the way."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One machine instruction.

    Attributes:
        address: bytes from the start of its section.
        predicate: the guard as it is printed, ``@P0`` or ``@!UP1``; empty where there is none.
        opcode: the mnemonic without modifiers, ``LDG``.
        modifiers: what follows it, ``("E", "128")``.
        text: the instruction as it is printed, guard and operands included.
        target: where it branches or calls to, an address of its section; None otherwise.
    """

    address: int
    predicate: str
    opcode: str
    modifiers: tuple[str, ...]
    text: str
    target: int | None = None

    @property
    def pipe(self) -> str:
        """The unit that it is issued to, a pipe of ``PIPES``, or "other" where none is known."""
        pipe = PIPES.get(self.opcode)
        if pipe is None and self.opcode.startswith("UTC"):
            return "tensor"
        if pipe is None and self.opcode.startswith("U"):
            return "uniform"
        return pipe or "other"

    @property
    def guarded(self) -> bool:
        """Whether it may do nothing: under a predicate, or a branch under a condition."""
        if self.predicate or self.opcode not in _JUMPS:
            return bool(self.predicate)
        under = re.search(rf"{self.opcode}(?:\.\w+)*\s+!?U?P\d", self.text)
        return under is not None or bool({"DIV", "CONV"} & set(self.modifiers))


@dataclass(frozen=True)
class _Code:
    """Instructions in order, and what they count up to."""

    instructions: tuple[Instruction, ...]

    @property
    def count(self) -> int:
        """Instructions."""
        return len(self.instructions)

    def by_pipe(self) -> dict[str, int]:
        """Instructions of each pipe that has any, the busiest first."""
        return dict(Counter(i.pipe for i in self.instructions).most_common())

    def count_of(self, *opcodes: str) -> int:
        """Instructions of these names: ``LDG``, or with modifiers that must be there, ``LDG.128``.

        An instruction that goes by several of the names is counted once.
        """
        wanted = [(opcode, set(rest)) for opcode, *rest in (name.split(".") for name in opcodes)]
        return sum(
            any(i.opcode == opcode and rest <= set(i.modifiers) for opcode, rest in wanted)
            for i in self.instructions
        )


@dataclass(frozen=True)
class Loop(_Code):
    """The text from the target of a backward branch to that branch, both included.

    Attributes:
        instructions: in order.
        depth: how many other loops it is part of.
        inner: whether no other loop is part of it.
    """

    depth: int
    inner: bool

    @property
    def start(self) -> int:
        """The address of its first instruction."""
        return self.instructions[0].address


@dataclass(frozen=True)
class Listing(_Code):
    """The instructions of a cubin, all its functions one after the other."""

    @cached_property
    def loops(self) -> tuple[Loop, ...]:
        """All loops, in the order in which they end: what is inside comes before what holds it."""
        spans = _spans(self.instructions)
        return tuple(
            Loop(
                self.instructions[span[0] : span[1] + 1],
                depth=sum(_holds(other, span) for other in spans),
                inner=not any(_holds(span, other) for other in spans),
            )
            for span in spans
        )

    @property
    def inner(self) -> tuple[Loop, ...]:
        """The loops that hold no other loop."""
        return tuple(loop for loop in self.loops if loop.inner)


def disassemble(cubin: bytes) -> Listing:
    """The instructions of a cubin, as triton's ``compiled.asm["cubin"]``.

    Raises:
        SassError: there is no disassembler, or it refuses the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [_tool(), "--print-code", str(path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SassError(f"{command[0]} does not run: {error}") from error
    if done.returncode:
        raise SassError(f"nvdisasm refuses {len(cubin):,} bytes: {done.stderr.strip()}")
    return parse(done.stdout)


def parse(text: str) -> Listing:
    """What ``nvdisasm --print-code`` printed.

    Raises:
        SassError: there are no instructions, one cannot be read, or a branch leads nowhere.
    """
    sections = re.split(r"^\s*\.section\b.*$", text, flags=re.MULTILINE)
    instructions = [i for section in sections for i in _section(section)]
    if not instructions:
        raise SassError("no instructions in the listing")
    return Listing(tuple(instructions))


def _tool() -> str:
    try:
        import triton
    except ImportError as error:
        raise SassError("nvdisasm comes in the triton wheel, which is not installed") from error
    try:
        return str(triton.knobs.nvidia.nvdisasm.path)
    except RuntimeError as error:
        raise SassError(f"triton has no nvdisasm: {error}") from error


def _section(text: str) -> list[Instruction]:
    """The instructions of one section, whose addresses start at 0."""
    labels: dict[str, int] = {}
    waiting: list[str] = []
    lines: list[tuple[int, str]] = []
    for line in text.splitlines():
        if (label := _LABEL.match(line)) is not None:
            waiting.append(label["name"])
        elif (found := _ADDRESS.match(line)) is not None:
            address = int(found["address"], 16)
            labels.update(dict.fromkeys(waiting, address))
            waiting.clear()
            lines.append((address, found["rest"]))
    return [_instruction(address, line, labels) for address, line in lines]


def _instruction(address: int, line: str, labels: Mapping[str, int]) -> Instruction:
    found = _INSTRUCTION.match(line)
    if found is None:
        raise SassError(f"no instruction at {address:#06x}: '{line.strip()}'")
    opcode, target = found["opcode"], None
    named = _TARGET.search(line)
    if opcode in (*_JUMPS, "CALL") and named is not None:
        target = labels.get(named["name"])
        if target is None and opcode != "CALL":
            raise SassError(f"'{found['text']}' at {address:#06x} leads to no label of the listing")
    modifiers = tuple(found["modifiers"].split(".")[1:])
    return Instruction(address, found["predicate"] or "", opcode, modifiers, found["text"], target)


def _spans(code: tuple[Instruction, ...]) -> list[tuple[int, int]]:
    """First and last position of every loop, by the last."""
    firsts = [0, *(i for i in range(1, len(code)) if code[i].address == 0)]
    spans = [
        (first + start, first + end)
        for first, last in pairwise([*firsts, len(code)])
        for start, end in _spans_of_section(code[first:last]).items()
    ]
    return sorted(spans, key=lambda span: span[1])


def _spans_of_section(code: tuple[Instruction, ...]) -> dict[int, int]:
    """The last position of each loop, by the first.

    A backward branch closes a loop if whoever comes to it has come through its target. So the
    way back from code that stands out of line is none, nor is the trap that follows the end.
    """
    position = {instruction.address: i for i, instruction in enumerate(code)}
    flow = [_next(i, instruction, position, len(code)) for i, instruction in enumerate(code)]
    calls = [i.target for i in code if i.opcode == "CALL" and i.target is not None]
    entries = [0, *(position[target] for target in calls)]
    reached = _reached(flow, entries, without=None)
    found: dict[int, int] = {}
    for branch in reached:
        for target in flow[branch]:
            if target < branch and branch not in _reached(flow, entries, without=target):
                found[target] = max(found.get(target, 0), branch)
    return found


def _next(at: int, instruction: Instruction, position: Mapping[int, int], length: int) -> list[int]:
    """The positions that may follow one; a call comes back."""
    jumps = instruction.opcode in _JUMPS
    follows = [at + 1] if at + 1 < length else []
    if (jumps or instruction.opcode in _ENDS) and not instruction.guarded:
        follows = []
    if jumps and instruction.target is not None:
        follows.append(position[instruction.target])
    return follows


def _reached(flow: list[list[int]], entries: Iterable[int], without: int | None) -> set[int]:
    """Where the flow leads from the entries, if it may not enter ``without``."""
    reached: set[int] = set()
    waiting = [entry for entry in entries if entry != without]
    while waiting:
        at = waiting.pop()
        if at in reached:
            continue
        reached.add(at)
        waiting += [to for to in flow[at] if to != without]
    return reached


def _holds(outer: tuple[int, int], inner: tuple[int, int]) -> bool:
    return outer != inner and outer[0] <= inner[0] and inner[1] <= outer[1]
