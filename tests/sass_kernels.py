"""Small Triton kernels with a loop, compiled for ``test_sass``."""

import triton
import triton.language as tl


@triton.jit
def dot(x_ptr, y_ptr, out_ptr, steps):
    """Products of two vectors, 128 partial sums."""
    lane = tl.arange(0, 128)
    total = tl.zeros((128,), tl.float32)
    for i in range(steps):
        total += tl.load(x_ptr + i * 128 + lane) * tl.load(y_ptr + i * 128 + lane)
    tl.store(out_ptr + lane, total)


@triton.jit
def dequantize_dot(x_ptr, q_ptr, s_ptr, out_ptr, length, steps, rows: tl.constexpr):
    """Halves times 4-bit codes under one scale for each 64."""
    m, r, k = tl.arange(0, rows), tl.program_id(0) * 64 + tl.arange(0, 64), tl.arange(0, 64)
    total = tl.zeros((rows, 64), tl.float32)
    for i in range(steps):
        x = tl.load(x_ptr + m[:, None] * length + (i * 64 + k)[None, :])
        q = tl.load(q_ptr + r[None, :] * length + (i * 64 + k)[:, None])
        scale = tl.load(s_ptr + r * steps + i)
        w = ((q & 15).to(tl.float16) - 8.0) * scale[None, :].to(tl.float16)
        total = tl.dot(x, w.to(tl.float16), total)
    tl.store(out_ptr + m[:, None] * length + r[None, :], total)


#: The types of each kernel's arguments, and its constants.
SIGNATURES = {
    "dot": ({"x_ptr": "*fp32", "y_ptr": "*fp32", "out_ptr": "*fp32", "steps": "i32"}, {}),
    "dequantize_dot": (
        {
            "x_ptr": "*fp16",
            "q_ptr": "*u8",
            "s_ptr": "*fp32",
            "out_ptr": "*fp32",
            "length": "i32",
            "steps": "i32",
            "rows": "constexpr",
        },
        {"rows": 64},
    ),
}
