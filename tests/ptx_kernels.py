"""A Triton kernel around an asm text, for ``test_ptx_emulator``."""

import triton
import triton.language as tl


@triton.jit
def through_asm(x_ptr, asm: tl.constexpr):
    """Every element of a row through the asm, in place."""
    at = x_ptr + tl.arange(0, 32)
    x = tl.load(at)
    y = tl.inline_asm_elementwise(asm, "=r,r", [x], dtype=tl.int32, is_pure=False, pack=1)
    tl.store(at, y)
