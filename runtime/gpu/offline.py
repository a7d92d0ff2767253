"""Product kernels compiled for GPUs that are not here: registers, spills, instructions a weight.

A module's own launcher says what a kernel is compiled with: it runs on tensors without memory,
and its launches are written down instead of made.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import ModuleType
from typing import Any

import torch

from ...codegen.triton.products import Method, emit_product
from ...codegen.triton.products.functions import Function, of_snippet
from ...codegen.triton.snippets import Snippet
from ...codegen.triton.strategies import Choose, Strategy, by_name, by_select
from ...compiler.format import Format
from ...compiler.physical import BYTES, UNIT, PhysicalLayout
from ...compiler.streams import stream_shapes
from ..generated import module_of
from ..sass import Listing, Loop, disassemble
from ..triton_offline import OfflineCompileError, _resources
from .modules import method_named, product_module

#: Shape of the matrix that kernels are compiled for.
ROWS, LENGTH = 4096, 4096

#: Lanes of a warp.
_LANES = {"cuda": 32, "hip": 64}

#: Pipes that share the lanes of memory: a quarter of the issue slots (``strategies.Cost``).
_SLOW = ("memory", "shuffle", "convert")

#: What a kernel is compiled with where its launcher is not told: as ``candidates`` has it.
_USUAL: dict[str, dict[str, int]] = {
    "gemv": {"rows": 4, "units": 64, "warps": 2},
    "gemm": {"block_m": 16, "block_n": 128, "block_k": 128, "splits": 1, "warps": 4, "stages": 3},
    "expand": {"block_n": 16, "block_k": 256, "warps": 4},
    "prepare": {},
}

_TYPES = {
    torch.uint8: "u8",
    torch.int8: "i8",
    torch.uint16: "u16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
}

_LOADS = re.compile(r"\b(?:ld\.global|cp\.async\.c[ag])\b")
_LABEL = re.compile(r"^(\$\S+):")
_BRANCH = re.compile(r"\bbra(?:\.uni)?\s+(\$[^;\s]+);")


@dataclass(frozen=True)
class ProductReport:
    """What one kernel of a product takes on one architecture.

    Attributes:
        kernel: its name.
        target: ``sm_90`` or ``gfx942``.
        warps: of a program.
        registers: of a thread.
        stack, local: bytes of a thread that are not in registers.
        shared: bytes of a program.
        text: PTX, or the assembly of an AMD GPU.
        ttgir: Triton's own text, with the layouts of its tensors.
        weights: that a thread takes in one pass of the source's loop over the columns.
        code: the cubin; empty for an AMD GPU.
    """

    kernel: str
    target: str
    warps: int
    registers: int
    stack: int
    local: int
    shared: int
    text: str = field(repr=False)
    ttgir: str = field(repr=False)
    weights: float
    code: bytes = field(repr=False)

    @property
    def spills(self) -> bool:
        """Whether a thread's values leave its registers."""
        return self.stack > 0 or self.local > 0

    @cached_property
    def listing(self) -> Listing:
        """The machine code.

        Raises:
            SassError: there is none, or it cannot be read.
        """
        return disassemble(self.code)

    @cached_property
    def loop(self) -> Loop:
        """The loop over the columns: the largest without another one inside."""
        return max(self.listing.inner, key=lambda loop: loop.count)

    @cached_property
    def passes(self) -> int:
        """Passes of the source's loop that are one of the machine code's, which may be unrolled."""
        loads = self.loop.count_of("LDG", "LDGSTS")
        return max(1, round(loads / max(1, _loads_of_loop(self.text))))

    @property
    def per_weight(self) -> float:
        """Machine instructions of the loop a weight."""
        return self.loop.count / (self.weights * self.passes)

    @property
    def pipes(self) -> dict[str, float]:
        """The same by pipe (``sass.PIPES``)."""
        per = self.weights * self.passes
        return {pipe: count / per for pipe, count in self.loop.by_pipe().items()}


@dataclass(frozen=True)
class DecodeCost:
    """Machine instructions a value: all, and those of the pipes that have fewer lanes."""

    all: float
    integer: float
    memory: float


def compile_product(
    kernel: Format,
    operation: str,
    method: Method | str,
    arch: int | str,
    m: int = 1,
    config: dict[str, int] | None = None,
) -> ProductReport:
    """Compile one kernel of a product, as its launcher would.

    Args:
        kernel: a kernel format.
        operation: ``gemv``, ``gemm`` or ``expand``; ``prepare_gemv`` or ``prepare_gemm``.
        method: one of ``methods_of(kernel)``, or its name.
        arch: 90 for sm_90, or the name of an AMD architecture, for which the twin is compiled.
        m: rows of activations.
        config: what the launcher is told besides, ``warps`` for one; None: what is usual.

    Raises:
        OfflineCompileError: it does not compile.
        ValueError: the format has no such method.
    """
    named = method_named(kernel, method) if isinstance(method, str) else method
    kind = "gemv" if operation.endswith("gemv") else "gemm"
    chosen = named.order or BYTES
    if isinstance(arch, str):
        ((filename, text),) = emit_product(named, kind, chosen, twin=True).items()
        module = module_of(text, filename, f"{kernel.content_hash[:16]} twin", False)
    else:
        module = product_module(kernel, kind, named.name, chosen, False)
    usual = _USUAL[operation.split("_", maxsplit=1)[0]]
    launch = _launch(module, kernel, named, operation, m, {**usual, **(config or {})})
    return _compiled(launch, arch)


def decode_cost(strategy: Strategy, arch: int = 90, loads: bool = False) -> DecodeCost:
    """What a strategy's decoding alone takes, a value.

    The difference between a kernel that decodes n words and one that decodes 2n, less that of
    kernels that copy them. Blocks of two groups of 16 have select bits of their own.

    Args:
        strategy: how codes are decoded.
        arch: 90 for sm_90.
        loads: whether tables are loaded into registers before, as in a GEMV with one table, or
            are constants among which select bits choose.
    """
    decoding, copying = (_probe(strategy, decodes, loads) for decodes in (True, False))
    few, many, fewer, more = (
        _probed(text, strategy.words, arch, groups)
        for text in (decoding, copying)
        for groups in (2, 4)
    )
    values = 2 * UNIT
    marginal = zip(few, many, fewer, more, strict=True)
    return DecodeCost(*((b - a - (d - c)) / values for a, b, c, d in marginal))


@dataclass(frozen=True)
class _Launch:
    """A kernel, the arguments of one launch, and its options."""

    kernel: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def bound(self) -> dict[str, Any]:
        """Arguments by their names."""
        return dict(zip(self.kernel.arg_names, self.arguments, strict=True))

    @property
    def weights(self) -> float:
        """Weights of a program's pass over its columns."""
        b = self.bound
        if "rows" in b:
            return float(b["rows"] * b["units"] * UNIT)
        return float(b["block_n"] * b["block_k"]) if "block_n" in b else 0.0


@dataclass(frozen=True)
class _Recorder:
    """Stands where a kernel stands, and writes down its launches."""

    kernel: Any
    launches: list[_Launch]

    def __getitem__(self, grid: object) -> Callable[..., None]:
        def launch(*arguments: object, **options: object) -> None:
            self.launches.append(_Launch(self.kernel, arguments, options))

        return launch


def _launch(
    module: ModuleType, fmt: Format, method: Method, operation: str, m: int, config: dict[str, int]
) -> _Launch:
    """What the module's launcher gives its kernel for a matrix of [ROWS, LENGTH]."""
    name = f"{fmt.name}_{operation}_kernel"
    kernels = {n: k for n, k in vars(module).items() if n.endswith("_kernel")}
    launches: list[_Launch] = []
    vars(module).update({n: _Recorder(kernel, launches) for n, kernel in kernels.items()})
    try:
        planes, blocks = _weights(fmt, method.order or BYTES)
        integer = method.arithmetic == "integer"
        x = torch.empty((m, LENGTH), dtype=torch.int8 if integer else torch.float16, device="meta")
        out = torch.empty((m, ROWS), dtype=torch.float16, device="meta")
        if operation.startswith("prepare"):
            module.prepare(x, LENGTH // 8)
        elif operation == "expand":
            module.expand(planes, blocks, LENGTH, 8, **config)
        elif operation == "gemm":
            module.gemm(planes, blocks, x, 1.0, 8, out=out, **config)
        elif integer:
            scales = torch.empty((m, LENGTH // 32), device="meta")
            module.gemv(planes, blocks, x, scales, out=out, **config)
        else:
            module.gemv(planes, blocks, x, out=out, **config)
    finally:
        vars(module).update(kernels)
    (found,) = [launch for launch in launches if launch.kernel is kernels[name]]
    return found


def _weights(
    fmt: Format, order: tuple[int, ...]
) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Planes and blocks of a kernel format, without memory."""
    layout = PhysicalLayout(fmt.code_bits, order)

    def empty(columns: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
        return torch.empty((ROWS, columns), dtype=dtype, device="meta")

    planes = [empty(layout.plane_bytes(width, LENGTH)) for width in layout.planes]
    if fmt.is_plain:
        shapes = stream_shapes(fmt, ROWS, LENGTH)
        return planes, {n: empty(shape[1]) for n, shape in shapes.items() if n != "codes"}
    count = -(-LENGTH // fmt.block)
    return planes, {
        "scales": empty(count, torch.float32),
        "selects": empty(count),
        "zeros": empty(count, torch.float32),
    }


def _compiled(launch: _Launch, arch: int | str) -> ProductReport:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.errors import TritonError

    signature: dict[str, str] = {}
    constants: dict[str, object] = {}
    aligned = {}
    for i, (parameter, value) in enumerate(
        zip(launch.kernel.params, launch.arguments, strict=True)
    ):
        # As the launcher specializes: ones are constants, multiples of 16 are known to be.
        if parameter.is_constexpr or (isinstance(value, int) and value == 1):
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
            continue
        signature[parameter.name] = _type_of(value)
        if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
            aligned[(i,)] = [["tt.divisibility", 16]]
    kind = "hip" if isinstance(arch, str) else "cuda"
    target = GPUTarget(kind, arch, _LANES[kind])
    source = ASTSource(launch.kernel, signature=signature, constexprs=constants, attrs=aligned)
    name = f"{launch.kernel.__name__} for {_shown(arch)}"
    try:
        compiled = triton.compile(source, target=target, options=dict(launch.options))
    except (triton.CompilationError, TritonError, RuntimeError) as error:
        raise OfflineCompileError(f"{name}: {error}") from error
    code = b"" if kind == "hip" else compiled.asm["cubin"]
    text = compiled.asm["amdgcn" if kind == "hip" else "ptx"]
    registers, stack, shared, local = _amd_resources(text) if kind == "hip" else _resources(code)
    warps = int(compiled.metadata.num_warps)
    return ProductReport(
        kernel=launch.kernel.__name__,
        target=_shown(arch),
        warps=warps,
        registers=registers,
        stack=stack,
        local=local,
        shared=max(shared, int(compiled.metadata.shared)),
        text=text,
        ttgir=compiled.asm["ttgir"],
        weights=launch.weights / (_LANES[kind] * warps),
        code=code,
    )


def _shown(arch: int | str) -> str:
    return arch if isinstance(arch, str) else f"sm_{arch}"


def _type_of(value: object) -> str:
    """How Triton writes the type of an argument."""
    if isinstance(value, torch.Tensor):
        return f"*{_TYPES[value.dtype]}"
    return "fp32" if isinstance(value, float) else "i32"


def _amd_resources(text: str) -> tuple[int, int, int, int]:
    """Vector registers, bytes of private memory, 0, and registers that are spilled."""

    def number(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", text)
        if found is None:
            raise OfflineCompileError(f"the assembly says nothing of {name}")
        return int(found[1])

    spilled = number("vgpr_spill_count") + number("sgpr_spill_count")
    return number("vgpr_count"), number("private_segment_fixed_size"), 0, spilled


def _loads_of_loop(ptx: str) -> int:
    """Loads from global memory in the longest loop of PTX that holds no other."""
    rows = ptx.splitlines()
    labels = {found[1]: i for i, row in enumerate(rows) if (found := _LABEL.match(row))}
    spans = [
        (labels[found[1]], i)
        for i, row in enumerate(rows)
        if (found := _BRANCH.search(row)) and labels.get(found[1], i) < i
    ]
    inner = [s for s in spans if not any(s != o and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    start, end = max(inner, key=lambda span: span[1] - span[0], default=(0, len(rows)))
    return sum(bool(_LOADS.search(row)) for row in rows[start:end])


# -- decoding alone ---------------------------------------------------------------------

_PROBE = """
import triton
import triton.language as tl


@triton.jit
{head}
    return {call}


@triton.jit
def probe_kernel({pointers}, select_ptr, tables_ptr, out_ptr, groups: tl.constexpr):
    stride: tl.constexpr = 1 << 12
    lane = tl.program_id(0) * 128 + tl.arange(0, 128)
{tables}
    for u in tl.static_range(groups):
        select_low = tl.load(select_ptr + lane + u * 2 * stride)
        select_high = tl.load(select_ptr + lane + (u * 2 + 1) * stride)
        for i in tl.static_range(4):
{loads}
            p0, p1, p2, p3 = {pairs}
            at = out_ptr + lane + (u * 4 + i) * 4 * stride
            tl.store(at, p0)
            tl.store(at + stride, p1)
            tl.store(at + 2 * stride, p2)
            tl.store(at + 3 * stride, p3)
"""

#: Bits of a word's plane -> how memory holds it.
_WORDS = {"nibbles": torch.int32, "fields": torch.uint16, "bits": torch.uint8}


def _probe(strategy: Strategy, decodes: bool, loads: bool) -> str:
    """A module whose kernel reads groups of four words and stores four pairs of each."""
    s, tables = _probe_snippet(strategy, loads)
    function, words = of_snippet("_pairs", "", s, twin=False), strategy.words
    if not decodes:
        function, tables = of_snippet("_pairs", "", _nothing(), twin=False), 0
    # Select bits come with the blocks: reading them is no part of decoding.
    several = strategy.tables > 1
    selects = ("select_low", "select_high") if several else (words[0], words[-1])
    return _PROBE.format(
        head=function.head,
        call=_assembly(function),
        pointers=", ".join(f"{word}_ptr" for word in words),
        tables="\n".join(f"    t{i} = tl.load(tables_ptr + {i})" for i in range(tables)),
        loads="\n".join(
            f"            {w} = tl.load({w}_ptr + lane + (u * 4 + i) * stride).to(tl.int32)"
            for w in words
        ),
        pairs=f"_pairs({', '.join(s.inputs)})"
        if decodes
        else ", ".join([words[0], selects[0], words[-1], selects[1]]),
    )


@lru_cache(maxsize=256)
def _probed(text: str, words: tuple[str, ...], arch: int, groups: int) -> tuple[int, int, int]:
    """Instructions of a probe's kernel: all, the integer pipe's, those of slow pipes."""
    module = module_of(text, "probe.py", f"{zlib.crc32(text.encode()):08x}", False)
    types = [*(_WORDS.get(word, torch.int32) for word in words), *[torch.int32] * 3]
    tensors = [torch.empty(0, dtype=dtype, device="meta") for dtype in types]
    launch = _Launch(module.probe_kernel, (*tensors, groups), {"num_warps": 4})
    listing = disassemble(_compiled(launch, arch).code)
    pipes = listing.by_pipe()
    return listing.count, pipes.get("int", 0), sum(pipes.get(pipe, 0) for pipe in _SLOW)


def _nothing() -> Snippet:
    """A program that no probe of a copy runs."""
    s = Snippet()
    s.give(s.do("xor", s.read("word"), 1))
    return s


def _probe_snippet(strategy: Strategy, loads: bool) -> tuple[Snippet, int]:
    """The decoding of a word; and how many registers of tables it takes."""
    s = Snippet()
    words = [s.read(name) for name in strategy.words]
    seen: list[tuple[int, ...]] = []
    if strategy.tables > 1:
        chooses: list[Choose] = [by_select(s, s.read(f"select_{g}")) for g in ("low", "high")]
    else:
        chooses = [by_name(s, "t", seen) if loads else _only] * 2
    s.give(*strategy.pairs(s, words, chooses))
    return s, len(seen)


def _only(words: Sequence[int]) -> int:
    """The choice among one table."""
    (word,) = words
    return word


def _assembly(function: Function) -> str:
    """A call of inline assembly, as an expression."""
    asm = " ".join(function.asm)
    arguments, outputs = ", ".join(function.arguments), ", ".join(function.outputs)
    return (
        f'tl.inline_asm_elementwise("{asm}", "{function.constraints}", [{arguments}], '
        f"dtype=({outputs}), is_pure=True, pack=1)"
    )
