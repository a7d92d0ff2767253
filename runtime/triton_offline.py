"""Compiling the generated Triton kernels to cubin on a machine without a GPU or a driver.

Resource use is read with the ``cuobjdump`` that comes in the triton wheel, so that a test can
refuse a kernel that spills.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..codegen.triton import blockwise_format
from ..codegen.triton.plan import plan_of
from ..compiler.format import Format
from ..compiler.view import view_of
from .triton_backend import load_module

#: CUDA architectures: A100, H100/H200, B100/B200.
ARCHITECTURES = (80, 90, 100)

#: Types of the kernels' arguments; every other pointer holds bytes, every other value an i32.
_POINTERS = {
    "lasts_ptr": "*i32",
    "x_ptr": "*fp32",
    "y_ptr": "*fp32",
    "out_ptr": "*fp32",
    "values_ptr": "*fp32",
    "scale_values_ptr": "*fp32",
    "multiplier_ptr": "*fp32",
    "zeros_ptr": "*fp32",
    "thresholds_ptr": "*i32",
    "keys_ptr": "*i32",
    "ties_ptr": "*i32",
    "codes_above_ptr": "*i32",
    "midpoints_ptr": "*fp64",
    "pairs_ptr": "*i64",
}

#: Pointers to what is encoded and decoded.
_FLOATS = {"float32": "*fp32", "float16": "*fp16", "bfloat16": "*bf16"}

_RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


class OfflineCompileError(RuntimeError):
    """Triton or its assembler refused a generated kernel; the message is its own."""


@dataclass(frozen=True, slots=True)
class KernelReport:
    """What one kernel takes on one architecture.

    Attributes:
        kernel: the kernel's name.
        arch: the architecture, 90 for sm_90.
        warps: warps of a program.
        registers: registers of a thread (at most 255).
        stack: bytes of a thread's stack; more than zero is a spill or an indexed array.
        local: bytes of a thread's local memory.
        shared: bytes of a program's static shared memory.
        cubin: bytes of the machine code file.
        ptx: the assembly text that it was made from.
        code: the machine code file, as ``sass.disassemble`` reads it.
    """

    kernel: str
    arch: int
    warps: int
    registers: int
    stack: int
    local: int
    shared: int
    cubin: int
    ptx: str
    code: bytes = field(repr=False)

    @property
    def spills(self) -> bool:
        """Whether a thread's values leave its registers."""
        return self.stack > 0 or self.local > 0


def compile_offline(
    fmt: Format, arch: int, dtype: str = "float32", *, whole: bool = True
) -> list[KernelReport]:
    """Compile every kernel of a format for one architecture, with the launchers' constants.

    Args:
        fmt: the format.
        arch: 80, 90 or 100, as in sm_90.
        dtype: what is encoded and decoded: ``float32``, ``float16`` or ``bfloat16``.
        whole: whether rows are whole blocks.

    Returns:
        One report a kernel, in the order of the modules' texts.

    Raises:
        BackendUnavailable: torch or triton is missing.
        ValueError: Triton cannot express the format.
        OfflineCompileError: a kernel does not compile.
    """
    fmt = blockwise_format(fmt)
    plan = plan_of(view_of(fmt))
    read = {8: "*u8", 16: "*i16", 32: "*i32"}[plan.word_type]
    words = "*i32" if plan.packs_words else read
    coders: dict[str, object] = {"blocks": plan.encode_blocks, "whole": whole}
    numbers = {"x_ptr": _FLOATS[dtype], "out_ptr": _FLOATS[dtype]}
    jobs = []
    if plan.fused:
        jobs += [
            _Job("encode", "encode", coders, {**numbers, "scales_ptr": words}),
            _Job("decode", "decode", coders, {**numbers, "scales_ptr": read}),
        ]
    given = {**numbers, "scales_ptr": "*fp32"}
    jobs += [_Job(f"{way}_given", way, coders, given) for way in ("encode", "decode")]
    if plan.words:
        in_words = {**numbers, "codes_ptr": "*i32", "scales_ptr": read}
        jobs += [_Job("decode_words", "decode", coders, in_words)] if plan.fused else []
        jobs.append(_Job("decode_given_words", "decode", coders, {**given, "codes_ptr": "*i32"}))
    for stream in plan.packed_streams:
        packing = {
            "bits": stream.bits,
            "high_first": stream.order == "high_first",
            "tile": plan.encode_blocks * plan.lanes,
        }
        fields = words if stream.name == "scales" else "*u8"
        jobs.append(_Job("pack", "encode", packing, {"fields_ptr": fields}))
    return [_compile(fmt, job, arch, plan.warps) for job in jobs]


@dataclass(frozen=True, slots=True)
class _Job:
    """One kernel to compile: its module, its constants, and pointers that differ from the usual."""

    kernel: str
    operation: str
    constants: Mapping[str, object]
    pointers: dict[str, str] = field(default_factory=dict)


def _compile(fmt: Format, job: _Job, arch: int, warps: int) -> KernelReport:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module = load_module(fmt, job.operation, interpreted=False)
    kernel = getattr(module, f"{fmt.name}_{job.kernel}_kernel")
    names = list(inspect.signature(kernel.fn).parameters)
    signature = {argument: _type_of(argument, job) for argument in names}
    # What the launcher sees on real matrices: aligned pointers, rows of a multiple of 16.
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, argument in enumerate(names)
        if argument.endswith("_ptr") or argument == "length"
    }
    constants = {name: value for name, value in job.constants.items() if name in names}
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": warps, "enable_fp_fusion": False}
    try:
        compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    except (triton.CompilationError, RuntimeError) as error:
        raise OfflineCompileError(f"{kernel.__name__} for sm_{arch}: {error}") from error
    cubin = compiled.asm["cubin"]
    registers, stack, shared, local = _resources(cubin)
    return KernelReport(
        kernel=kernel.__name__,
        arch=arch,
        warps=warps,
        registers=registers,
        stack=stack,
        local=local,
        # Triton's shared memory is dynamic: the launcher asks for it, the cubin does not say.
        shared=max(shared, int(compiled.metadata.shared)),
        cubin=len(cubin),
        ptx=compiled.asm["ptx"],
        code=cubin,
    )


def _type_of(argument: str, job: _Job) -> str:
    if argument in job.constants:
        return "constexpr"
    usual = _POINTERS.get(argument, "*u8") if argument.endswith("_ptr") else "i32"
    return job.pointers.get(argument, usual)


def _resources(cubin: bytes) -> tuple[int, int, int, int]:
    """Registers, stack, shared and local bytes, as the wheel's cuobjdump prints them."""
    import triton

    tool = Path(triton.knobs.nvidia.cuobjdump.path)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [str(tool), "--dump-resource-usage", str(path)]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = _RESOURCES.search(listing)
    if found is None:
        raise OfflineCompileError(f"cuobjdump says nothing of registers: {listing.strip()}")
    registers, stack, shared, local = (int(number) for number in found.groups())
    return registers, stack, shared, local
