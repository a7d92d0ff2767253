"""A small emulator of inline PTX: what an asm snippet of a Triton kernel gives, to the bit.

Triton's interpreter does not run ``tl.inline_asm_elementwise``. ``run`` does, over NumPy arrays
and without a GPU: every element is one thread. The instructions are those of
``ptx_forms.FORMS``; whatever else a snippet says is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .ptx_floats import Bits
from .ptx_forms import FORMS
from .ptx_text import (
    Declaration,
    Execution,
    Name,
    Number,
    Operand,
    PtxError,
    Scalar,
    Scope,
    parse,
)
from .ptx_types import REGISTERS, Form, accepts, storage_of, takes_immediate, width_of

__all__ = ["PtxError", "run"]

#: The register that NVPTX makes of an operand, by its constraint.
_CONSTRAINTS = {"r": "b32", "h": "b16", "l": "b64", "f": "f32"}

Mask = NDArray[np.bool_]


def run(asm: str, constraints: str, inputs: Sequence[NDArray[Any]]) -> tuple[Bits, ...]:
    """Execute a snippet, one thread for each element.

    Args:
        asm: the text, with operands ``$0``, ``$1`` ...: outputs first, then inputs.
        constraints: one for each operand, as LLVM writes them: ``=r,=r,r,h,l,f``; r has 32 bits,
            h 16, l 64, and f is a float of 32.
        inputs: arrays that broadcast, of elements as wide as their constraints; the bits of any
            type are taken (a float32 array for ``f`` or ``r``).

    Returns:
        The outputs, unsigned integers of their width in the inputs' common shape.

    Raises:
        PtxError: the text is no PTX that is emulated, a register is read before it is written or
            has not the type that an instruction wants, or an output is left unwritten.
    """
    outputs, sources = _operands(constraints)
    if len(sources) != len(inputs):
        raise PtxError(f"'{constraints}' takes {len(sources)} inputs, here are {len(inputs)}")
    machine = _Machine(np.broadcast_shapes(*(np.shape(array) for array in inputs)))
    for index, kind in enumerate(outputs):
        machine.declare(f"${index}", kind)
    for index, (kind, array) in enumerate(zip(sources, inputs, strict=True), len(outputs)):
        machine.give(f"${index}", kind, np.asarray(array))
    for statement in parse(asm):
        if isinstance(statement, Scope):
            machine.scope(opens=statement.opens)
        elif isinstance(statement, Declaration):
            _declare(machine, statement)
        else:
            _execute(machine, statement)
    return tuple(machine.result(f"${index}") for index in range(len(outputs)))


@dataclass
class _Register:
    """A value for each thread, and whether the thread has one."""

    type: str
    value: Bits
    written: Mask
    constant: bool = False


class _Machine:
    """Registers by name, in scopes; arrays have one element, or one for each thread."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._scopes: list[dict[str, _Register]] = [{}]

    def scope(self, *, opens: bool) -> None:
        """Enter a scope, or leave one with its registers."""
        if opens:
            self._scopes.append({})
        else:
            self._scopes.pop()

    def declare(self, name: str, kind: str) -> None:
        """A new register without a value, which hides one of an outer scope."""
        if name in self._scopes[-1]:
            raise PtxError(f"register '{name}' is declared twice")
        empty = np.zeros(1, storage_of(kind))
        self._scopes[-1][name] = _Register(kind, empty, np.zeros(1, bool))

    def give(self, name: str, kind: str, array: NDArray[Any]) -> None:
        """An input."""
        storage = storage_of(kind)
        if array.dtype.itemsize != storage.itemsize:
            raise PtxError(f"input {name} has elements of type {array.dtype}, not of {kind}")
        flat = np.broadcast_to(array, self._shape).ravel().view(storage)
        self._scopes[-1][name] = _Register(kind, flat, np.ones(1, bool), constant=True)

    def find(self, name: str) -> _Register:
        """The register of the innermost scope that has one of the name."""
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        raise PtxError(f"there is no register '{name}'")

    def read(self, name: str, active: Mask) -> Bits:
        """A register's values; the active threads must have written them."""
        register = self.find(name)
        if not (register.written | ~active).all():
            raise PtxError(f"register '{name}' is read before it is written")
        return register.value

    def write(self, name: str, value: Bits, active: Mask) -> None:
        """A register's new values, in the active threads."""
        register = self.find(name)
        if register.constant:
            raise PtxError(f"'{name}' is an input, and is written")
        register.value = np.where(active, value, register.value).astype(storage_of(register.type))
        register.written = register.written | active

    def result(self, name: str) -> Bits:
        """An output, in the shape of the inputs."""
        register = self.find(name)
        if not register.written.all():
            raise PtxError(f"output '{name}' is not written")
        flat = np.broadcast_to(register.value, (int(np.prod(self._shape)),))
        return np.ascontiguousarray(flat).reshape(self._shape)


def _operands(constraints: str) -> tuple[list[str], list[str]]:
    """The register types of the outputs and of the inputs."""
    outputs: list[str] = []
    sources: list[str] = []
    for constraint in constraints.split(","):
        found = re.fullmatch(r"\s*(=?)&?([rhlf])\s*", constraint)
        if found is None:
            raise PtxError(f"no constraint '{constraint}'; there are r, h, l, f and =r, =h, =l, =f")
        if found[1] and sources:
            raise PtxError(f"outputs come first in '{constraints}'")
        (outputs if found[1] else sources).append(_CONSTRAINTS[found[2]])
    return outputs, sources


def _declare(machine: _Machine, statement: Declaration) -> None:
    if statement.type not in REGISTERS:
        raise PtxError(f"no register type '.{statement.type}': '{statement.text}'")
    for name in statement.names:
        if name.startswith("$"):
            raise PtxError(f"an operand cannot be declared: '{statement.text}'")
        try:
            machine.declare(name, statement.type)
        except PtxError as error:
            raise PtxError(f"{error}: '{statement.text}'") from None


def _execute(machine: _Machine, statement: Execution) -> None:
    try:
        active = np.ones(1, bool)
        if statement.guard:
            if machine.find(statement.guard).type != "pred":
                raise PtxError(f"'{statement.guard}' is no predicate")
            active = machine.read(statement.guard, active) != statement.negated
        if any(isinstance(operand, tuple) for operand in statement.operands):
            _move(machine, statement, active)
        else:
            _apply(machine, statement, active)
    except PtxError as error:
        raise PtxError(f"{error}: '{statement.text}'") from None


def _apply(machine: _Machine, statement: Execution, active: Mask) -> None:
    form = FORMS.get(statement.opcode)
    if form is None:
        raise PtxError(f"no instruction '{statement.opcode}' is emulated")
    if len(statement.operands) != 1 + len(form.takes):
        raise PtxError(f"{1 + len(form.takes)} operands are needed")
    to, *sources = statement.operands
    _check_destination(machine, to, form.gives)
    values = [
        _source(machine, operand, kind, form, active)
        for operand, kind in zip(sources, form.takes, strict=True)
    ]
    assert isinstance(to, Name)
    machine.write(to.name, form.rule(*values), active)


def _check_destination(machine: _Machine, to: Operand, kind: str) -> None:
    if not isinstance(to, Name):
        raise PtxError("a result needs a register")
    register = machine.find(to.name)
    if not accepts(kind, register.type):
        raise PtxError(f"'{to.name}' is .{register.type}, which cannot take .{kind}")


def _source(machine: _Machine, operand: Operand, kind: str, form: Form, active: Mask) -> Bits:
    if isinstance(operand, Number):
        return _immediate(operand, kind, form)
    assert isinstance(operand, Name)
    if kind == "imm8":
        raise PtxError(f"'{operand.name}' stands where only an immediate may")
    register = machine.find(operand.name)
    if not accepts(kind, register.type, wide=form.wide):
        raise PtxError(f"'{operand.name}' is .{register.type}, which is no .{kind}")
    return machine.read(operand.name, active)


def _immediate(number: Number, kind: str, form: Form) -> Bits:
    if not takes_immediate(kind) or form.wide:
        raise PtxError(f"an immediate cannot be .{kind} here")
    width, byte = width_of(kind), kind in ("imm8", "index")
    if number.floating != (kind == "f32") and (kind, number.floating) != ("b32", True):
        raise PtxError(f"an immediate .{kind} is written {'0f...' if kind == 'f32' else 'whole'}")
    least, top = (0, 256) if byte else (-(1 << (width - 1)), 1 << width)
    if not least <= number.value < top:
        raise PtxError(f"{number.value} does not fit .{kind}")
    return np.full(1, number.value % top, storage_of(kind))


def _move(machine: _Machine, statement: Execution, active: Mask) -> None:
    """``mov.b32 {a, b}, c`` and ``mov.b32 c, {a, b}``: the first part is the lowest."""
    opcode, operands = statement.opcode, statement.operands
    if opcode not in ("mov.b16", "mov.b32", "mov.b64") or len(operands) != 2:
        raise PtxError("only 'mov.b16', 'mov.b32' and 'mov.b64' take and give vectors")
    to, of = operands
    kind = opcode.removeprefix("mov.")
    if isinstance(to, tuple) and not isinstance(of, tuple):
        _unpack(machine, to, _source(machine, of, kind, FORMS[opcode], active), kind, active)
    elif isinstance(of, tuple) and not isinstance(to, tuple):
        _check_destination(machine, to, kind)
        assert isinstance(to, Name)
        machine.write(to.name, _pack(machine, of, kind, active), active)
    else:
        raise PtxError("a vector moves to or from one register")


def _part(kind: str, parts: tuple[Scalar, ...]) -> str:
    """The type of a vector's elements."""
    width = width_of(kind) // len(parts)
    if len(parts) not in (2, 4) or width < 8:
        raise PtxError(f"{len(parts)} parts do not make a .{kind}")
    return f"b{width}"


def _unpack(
    machine: _Machine, parts: tuple[Scalar, ...], value: Bits, kind: str, active: Mask
) -> None:
    part = _part(kind, parts)
    if set(parts) == {Name("_")}:
        raise PtxError("nobody takes the parts")
    for index, to in enumerate(parts):
        if to == Name("_"):
            continue
        _check_destination(machine, to, part)
        assert isinstance(to, Name)
        piece = (value >> np.asarray(index * width_of(part), value.dtype)).astype(storage_of(part))
        machine.write(to.name, piece, active)


def _pack(machine: _Machine, parts: tuple[Scalar, ...], kind: str, active: Mask) -> Bits:
    part, storage = _part(kind, parts), storage_of(kind)
    named = [machine.find(of.name).type for of in parts if isinstance(of, Name)]
    if any(isinstance(of, Number) and not of.floating for of in parts) and any(
        register.startswith("f") for register in named
    ):
        raise PtxError("an integer cannot stand beside a float")
    found = np.zeros(1, storage)
    for index, of in enumerate(parts):
        piece = _source(machine, of, part, FORMS["mov.b32"], active).astype(storage)
        found = found | piece << np.asarray(index * width_of(part), storage)
    return found
