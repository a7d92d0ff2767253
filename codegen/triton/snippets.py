"""Short straight-line programs on 32-bit registers, written once and printed twice.

A ``Snippet`` is a list of operations on registers. ``ptx`` prints it as inline assembly for a
GPU; ``twin`` prints it as Triton statements, for the interpreter and for GPUs without PTX. Both
compute the same bits: binary16 pairs live in 32-bit registers, the first in the low half.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

#: An operand: the name of a register, or a 32-bit constant.
Operand = str | int

#: name -> (PTX with {d} for the result, the twin's expression).
_OPERATIONS: dict[str, tuple[str, str]] = {
    "and": ("and.b32 {d}, {0}, {1};", "{0} & {1}"),
    "or": ("or.b32 {d}, {0}, {1};", "{0} | {1}"),
    "xor": ("xor.b32 {d}, {0}, {1};", "{0} ^ {1}"),
    "shl": ("shl.b32 {d}, {0}, {1};", "{0} << {1}"),
    "shr": ("shr.u32 {d}, {0}, {1};", "_shr({0}, {1})"),
    # One LOP3 each: 0xF0, 0xCC and 0xAA stand for the three inputs.
    "and_or": ("lop3.b32 {d}, {0}, {1}, {2}, 0xEA;", "({0} & {1}) | {2}"),
    "or_and": ("lop3.b32 {d}, {0}, {1}, {2}, 0xA8;", "({0} | {1}) & {2}"),
    "and_xor": ("lop3.b32 {d}, {0}, {1}, {2}, 0x6A;", "({0} & {1}) ^ {2}"),
    "constant": ("mov.b32 {d}, {0};", "{0}"),
    "prmt": ("prmt.b32 {d}, {0}, {1}, {2};", "_prmt({0}, {1}, {2})"),
    "is_set": ("setp.ne.b32 {d}, {0}, 0;", "{0} != 0"),
    "is_equal": ("setp.eq.s32 {d}, {0}, {1};", "{0} == {1}"),
    "select": ("selp.b32 {d}, {1}, {2}, {0};", "tl.where({0}, {1}, {2})"),
    "add2": ("add.rn.f16x2 {d}, {0}, {1};", "_add2({0}, {1})"),
    "sub2": ("sub.rn.f16x2 {d}, {0}, {1};", "_sub2({0}, {1})"),
    "mul2": ("mul.rn.f16x2 {d}, {0}, {1};", "_mul2({0}, {1})"),
    "fma2": ("fma.rn.f16x2 {d}, {0}, {1}, {2};", "_fma2({0}, {1}, {2})"),
    "dp4a": ("dp4a.s32.s32 {d}, {0}, {1}, {2};", "_dp4a({0}, {1}, {2})"),
    # The two e4m3 bytes of a 16-bit half as a binary16 pair.
    "e4m3_low": (
        "{{ .reg .b16 a, b; mov.b32 {{a, b}}, {0}; cvt.rn.f16x2.e4m3x2 {d}, a; }}",
        "_e4m3x2({0})",
    ),
    "e4m3_high": (
        "{{ .reg .b16 a, b; mov.b32 {{a, b}}, {0}; cvt.rn.f16x2.e4m3x2 {d}, b; }}",
        "_e4m3x2(_shr({0}, 16))",
    ),
    "twice": ("mov.b32 {d}, {{{0}, {0}}};", "_pair({0}, {0})"),
    "low": (".reg .b32 {d}_; mov.b64 {{{d}, {d}_}}, {0};", "{0}.to(tl.int32)"),
    "high": (".reg .b32 {d}_; mov.b64 {{{d}_, {d}}}, {0};", "({0} >> 32).to(tl.int32)"),
    "sum2": (
        (
            "{{ .reg .b16 a, b; .reg .f32 c, e; mov.b32 {{a, b}}, {0};\n"
            "cvt.f32.f16 c, a; cvt.f32.f16 e, b; add.rn.f32 {d}, c, e; }}"
        ),
        "_sum2({0})",
    ),
}

#: Operations that take no constants in PTX, and those of the twin that take no bare integers.
_NO_CONSTANTS = ("add2", "sub2", "mul2", "fma2", "dp4a")
_NO_INTEGERS = ("constant", "prmt")

#: Operations whose result is a predicate.
_PREDICATES = ("is_set", "is_equal")

#: The twin's functions, and those that each of them calls.
HELPERS: dict[str, tuple[str, ...]] = {
    "_shr": (),
    "_prmt": (),
    "_low_half": (),
    "_high_half": (),
    "_pair": (),
    "_add2": ("_low_half", "_high_half", "_pair"),
    "_sub2": ("_low_half", "_high_half", "_pair"),
    "_mul2": ("_low_half", "_high_half", "_pair"),
    "_fma2": ("_low_half", "_high_half", "_pair", "_fma_half"),
    "_fma_half": (),
    "_sum2": ("_low_half", "_high_half"),
    "_dp4a": (),
    "_e4m3x2": ("_pair",),
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: its name, the register that it defines, and what it reads."""

    name: str
    result: str
    operands: tuple[Operand, ...]


@dataclass(slots=True)
class Snippet:
    """A program that is being written.

    Attributes:
        inputs: its inputs in their order: name -> constraint letter (``r``, ``l``, ``f``).
    """

    inputs: dict[str, str] = field(default_factory=dict)
    _operations: list[Operation] = field(default_factory=list)
    _known: dict[tuple[str, tuple[Operand, ...]], str] = field(default_factory=dict)
    _outputs: list[str] = field(default_factory=list)

    def read(self, name: str, constraint: str = "r") -> str:
        """An input register."""
        self.inputs[name] = constraint
        return name

    def do(self, name: str, *operands: Operand) -> str:
        """The register that holds the result of an operation; the same one asked for twice."""
        if name in _NO_CONSTANTS:
            operands = tuple(self.do("constant", o) if isinstance(o, int) else o for o in operands)
        key = (name, operands)
        if key not in self._known:
            prefix = "p" if name in _PREDICATES else "t"
            self._known[key] = f"{prefix}{len(self._operations)}"
            self._operations.append(Operation(name, self._known[key], operands))
        return self._known[key]

    def give(self, *registers: str) -> None:
        """Name the outputs, in their order."""
        self._outputs += registers

    @property
    def outputs(self) -> tuple[str, ...]:
        """The registers that are results."""
        return tuple(self._outputs)

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The operations in their order."""
        return tuple(self._operations)

    def ptx(self, numbers: Sequence[str] | None = None) -> list[str]:
        """Lines of inline assembly: outputs are ``$0...``, then inputs as ``numbers`` has them.

        Args:
            numbers: the placeholder of every input; None: they follow the outputs.
        """
        first = len(self._outputs)
        names = numbers or [f"${first + i}" for i in range(len(self.inputs))]
        renamed = dict(zip(self.inputs, names, strict=True))
        renamed |= {register: f"${i}" for i, register in enumerate(self._outputs)}
        kinds: dict[str, list[str]] = {".pred": [], ".b32": []}
        for operation in self._operations:
            if operation.result not in renamed:
                kind = ".pred" if operation.name in _PREDICATES else ".b32"
                kinds[kind].append(operation.result)
        declared = [
            line for kind, registers in kinds.items() for line in _declared(kind, registers)
        ]
        body = [line for o in self._operations for line in _ptx(o, renamed).split("\n")]
        return ["{", *declared, *body, "}"]

    def ptx_of_halves(self, numbers: Sequence[str]) -> list[str]:
        """As ``ptx``, the outputs being the binary16 halves of the pairs: two each."""
        outputs, self._outputs = self._outputs, []
        lines = self.ptx(numbers)
        self._outputs = outputs
        halves = [f"mov.b32 {{${2 * i}, ${2 * i + 1}}}, {pair};" for i, pair in enumerate(outputs)]
        return [*lines[:-1], *halves, "}"]

    def twin(self) -> list[str]:
        """Triton statements, then ``return`` of the outputs."""
        lines = [f"{o.result} = {_expression(o)}" for o in self._operations]
        if any(o.name in _NO_INTEGERS for o in self._operations):
            lines.insert(0, f"zero = {next(iter(self.inputs))} & 0")
        return [*lines, f"return {', '.join(self._outputs)}"]

    def helpers(self) -> set[str]:
        """The twin's functions that ``twin`` calls."""
        return closed(
            helper
            for operation in self._operations
            for helper in HELPERS
            if f"{helper}(" in _OPERATIONS[operation.name][1]
        )


def closed(names: Iterable[str]) -> set[str]:
    """Helpers and all that they call."""
    wanted = set(names)
    while more := {inner for name in wanted for inner in HELPERS[name]} - wanted:
        wanted |= more
    return wanted


def _ptx(operation: Operation, renamed: dict[str, str]) -> str:
    def shown(operand: Operand) -> str:
        if isinstance(operand, int):
            return f"0x{operand & 0xFFFFFFFF:X}" if operand > 31 else str(operand)
        return renamed.get(operand, operand)

    text = _OPERATIONS[operation.name][0]
    result = renamed.get(operation.result, operation.result)
    return text.format(*map(shown, operation.operands), d=result)


def _expression(operation: Operation) -> str:
    def shown(operand: Operand) -> str:
        if isinstance(operand, int):
            signed = operand - (1 << 32) if operand >> 31 else operand
            text = f"0x{signed:X}" if signed > 31 else f"{signed}"
            return f"zero + {text}" if operation.name in _NO_INTEGERS else text
        return operand

    return _OPERATIONS[operation.name][1].format(*map(shown, operation.operands))


def _declared(kind: str, registers: Sequence[str]) -> list[str]:
    lines = [registers[i : i + 12] for i in range(0, len(registers), 12)]
    return [f".reg {kind} {', '.join(line)};" for line in lines]
