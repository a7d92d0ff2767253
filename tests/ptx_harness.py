"""One PTX instruction as an asm snippet: operands in registers that inline assembly can have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from fmtc.runtime.verify.ptx import run
from fmtc.runtime.verify.ptx_forms import FORMS
from fmtc.runtime.verify.ptx_types import REGISTERS, Form, accepts, takes_immediate, width_of

#: Immediates of the types that do not take -1, or more.
IMMEDIATES = {"f32": ("0f3F800000",), "b32": ("-1", "0f3F800000"), "index": ("0", "255")}

CONSTRAINT = {8: "h", 16: "h", 32: "r", 64: "l"}


def storage(kind: str) -> str:
    return "u2" if kind == "pred" else f"u{max(2, width_of(kind) // 8)}"


def snippet(opcode: str, immediate: int | None = None) -> tuple[str, str]:
    """The asm and constraints that run one instruction; predicates and bytes come in 16 bits."""
    form = FORMS[opcode]
    before, after, names = [], [], []
    for index, kind in enumerate(form.takes, 1):
        name = f"${index}"
        if kind == "pred":
            before.append(f".reg .pred p{index}; setp.ne.b16 p{index}, {name}, 0;")
            name = f"p{index}"
        elif kind == "e2m1x2":
            before.append(f".reg .b8 low; mov.b16 {{low, _}}, {name};")
            name = "low"
        names.append(str(immediate) if kind == "imm8" else name)
    to = "$0"
    if form.gives == "pred":
        before.append(".reg .pred to;")
        after.append("selp.b16 $0, 1, 0, to;")
        to = "to"
    inputs = [kind for kind in form.takes if kind != "imm8"]
    kinds = [f"={_constraint(form.gives)}", *map(_constraint, inputs)]
    text = "\n".join(["{", *before, f"{opcode} {', '.join([to, *names])};", *after, "}"])
    return text, ",".join(kinds)


def execute(opcode: str, *sources: Sequence[int], immediate: int | None = None) -> list[int]:
    """The results of one instruction, as bit patterns."""
    asm, constraints = snippet(opcode, immediate)
    kinds = [kind for kind in FORMS[opcode].takes if kind != "imm8"]
    arrays = [np.asarray(s, storage(kind)) for s, kind in zip(sources, kinds, strict=True)]
    (result,) = run(asm, constraints, arrays)
    assert result.dtype == storage(FORMS[opcode].gives)
    return result.tolist()


def _constraint(kind: str) -> str:
    return "h" if kind == "pred" else CONSTRAINT[width_of(kind)]


def every_use(opcode: str, form: Form) -> list[str]:
    """The instruction with every kind of register and immediate that the emulator takes."""
    takes = [["5"] if kind == "imm8" else _registers(kind, form.wide) for kind in form.takes]
    choices = [_registers(form.gives), *takes]
    most = max(map(len, choices))
    uses = [[choice[min(i, len(choice) - 1)] for choice in choices] for i in range(most)]
    first = [choice[0] for choice in choices]
    for index, kind in enumerate(form.takes, 1):
        if kind != "imm8" and takes_immediate(kind) and not form.wide:
            texts = IMMEDIATES.get(kind, ("-1",))
            uses += [[*first[:index], text, *first[index + 1 :]] for text in texts]
    return [_statement(opcode, use) for use in uses]


def _registers(kind: str, wide: bool = False) -> list[str]:
    return [register for register in REGISTERS if accepts(kind, register, wide=wide)]


def _statement(opcode: str, operands: list[str]) -> str:
    registers = {i: kind for i, kind in enumerate(operands) if kind in REGISTERS}
    declared = " ".join(f".reg .{kind} r{i};" for i, kind in registers.items())
    names = (f"r{i}" if i in registers else text for i, text in enumerate(operands))
    return f"{{ {declared} {opcode} {', '.join(names)}; }}"
