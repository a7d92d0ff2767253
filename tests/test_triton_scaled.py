"""Scaled products of formats that hardware multiplies as they are stored, compiled for it."""

from __future__ import annotations

import re
import sys
import types
from functools import cache

import pytest
from fmtc.codegen.triton import emit
from fmtc.codegen.triton.scaled import Native, emit_scaled, native
from fmtc.compiler.resolve import compile_text
from fmtc.formats import load, names

torch = pytest.importorskip("torch", reason="torch is not installed")
triton = pytest.importorskip("triton", reason="triton is not installed")

#: What the kernel is compiled for: format, activations -> the tensor cores' kind on sm_100.
KINDS = {
    ("mxfp4", "e2m1"): "mxf4.block_scale",
    ("mxfp4", "e4m3"): "mxf8f6f4.block_scale",
    ("mxfp8_e4m3", "e4m3"): "mxf8f6f4.block_scale",
    ("mxfp8_e5m2", "e5m2"): "mxf8f6f4.block_scale",
    ("nvfp4", "e2m1"): "mxf4nvf4.block_scale",
}

TILE = {"block_m": 128, "block_n": 128, "block_k": 128}


@cache
def module_of(name: str) -> types.ModuleType:
    import linecache

    ((file, text),) = emit_scaled(load(name)).items()
    path = f"<scaled {file}>"
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
    module = types.ModuleType(f"generated_{file.removesuffix('.py')}")
    module.__file__ = path
    sys.modules[module.__name__] = module
    exec(compile(text, path, "exec"), module.__dict__)
    return module


def ptx_of(name: str, x_type: str, arch: int) -> str:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(module_of(name), f"{name}_scaled_kernel")
    constants = {"x_type": x_type, "x_packed": 2 if x_type == "e2m1" else 1, **TILE}
    if "plain" in kernel.arg_names:
        constants["plain"] = x_type in ("bf16", "fp16")
    types_ = {"x_ptr": f"*{x_type}" if constants.get("plain") else "*u8", "y_ptr": "*fp32"}
    signature = {}
    for argument in kernel.arg_names:
        usual = "*u8" if argument.endswith("_ptr") else "i32"
        usual = "fp32" if argument == "multiplier" else types_.get(argument, usual)
        signature[argument] = "constexpr" if argument in constants else usual
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, argument in enumerate(kernel.arg_names)
        if argument.endswith("_ptr") or argument == "length"
    }
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": 4, "num_stages": 3}
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options).asm["ptx"]


@pytest.mark.parametrize(("name", "x_type"), KINDS)
def test_blackwell_multiplies_codes_themselves(name: str, x_type: str) -> None:
    kinds = set(re.findall(r"tcgen05\.mma\S*kind::(\w+\.block_scale)", ptx_of(name, x_type, 100)))
    assert kinds == {KINDS[name, x_type]}


@pytest.mark.parametrize("x_type", ["bf16", "e4m3"])
def test_elsewhere_both_sides_are_widened(x_type: str) -> None:
    ptx = ptx_of("mxfp4", x_type, 90)
    assert "wgmma.mma_async" in ptx
    assert "block_scale" not in ptx


def test_formats_are_native_by_what_they_mean() -> None:
    mx = {name for name in names() if native(load(name)) and native(load(name)).block == 32}
    assert {n for n in names() if n.startswith(("mxfp4", "mxfp8"))} <= mx
    assert native(load("nvfp4")) == Native("e2m1", "e4m3", 16)
    for name in ("nf4", "mxfp6_e2m3", "mxint8", "po2_nf4", "nvfp4_ue5m3", "q4_0", "e4m3_row"):
        assert native(load(name)) is None, name
        assert not emit_scaled(load(name))
    named_otherwise = "block 32  grid c = codebook 4 { 0, 0.5, 1, 1.5, 2, 3, 4, 6 }  scale e8m0"
    eight = compile_text(
        f'format other "" {{ {named_otherwise} }}'.replace("codebook 4", "codebook 3")
    )
    assert native(eight) is None
    assert native(compile_text('format e "" { block 32  grid e2m1  scale e8m0 }')) is not None
    high_first = compile_text('format h "" { block 32  grid e2m1  scale e8m0  pack high_first }')
    assert native(high_first) is None


def test_a_native_format_has_the_module_among_its_files() -> None:
    assert "mxfp4_scaled.py" in emit(load("mxfp4"))
    assert "nf4_scaled.py" not in emit(load("nf4"))


def test_tensors_that_do_not_fit_are_refused() -> None:
    scaled = module_of("mxfp4").scaled
    codes = torch.zeros((4, 32), dtype=torch.uint8)
    scales = torch.zeros((4, 2), dtype=torch.uint8)
    x = torch.zeros((3, 64), dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"'fp16' needs torch\.float16"):
        scaled(codes, scales, x, x_type="fp16")
    with pytest.raises(ValueError, match="no rows of 64"):
        scaled(codes[:, :-1], scales, x)
    with pytest.raises(ValueError, match="the scales of x are None"):
        scaled(codes, scales, x, scales[:3])
    assert scaled(codes, scales, x[:0]).shape == (0, 4)
