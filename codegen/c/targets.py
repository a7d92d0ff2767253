"""The processors that C is generated for: one file each, and what its inner kernels need."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """One file of a format.

    Attributes:
        name: of the file (``<format>_<name>.c``), of its functions, and of the template of its
            inner kernels.
        title: what the file is, for its head.
        guard: the macro without which the file is empty; "" for none.
        features: what the compiler is told that the processor has.
        include: the header of its intrinsics; "" for none.
        supports: what an x86 processor is asked for before the file's functions are called.
        streams: whether it can write past the caches.
    """

    name: str
    title: str
    guard: str = ""
    features: tuple[str, ...] = ()
    include: str = ""
    supports: tuple[str, ...] = ()
    streams: bool = False


#: The fastest first: what runs is the first that the processor can run.
TARGETS = (
    Target(
        "avx512",
        "The functions for x86 processors with AVX-512 and its byte permutations (VBMI).",
        "__x86_64__",
        (
            "avx512f",
            "avx512bw",
            "avx512dq",
            "avx512vl",
            "avx512vbmi",
            "avx512vnni",
            "bmi2",
            "fma",
            "f16c",
        ),
        "immintrin.h",
        ("avx512bw", "avx512dq", "avx512vl", "avx512vbmi", "avx512vnni", "bmi2"),
        streams=True,
    ),
    Target(
        "avx2",
        "The functions for x86 processors with AVX2.",
        "__x86_64__",
        ("avx2", "bmi2", "fma", "f16c"),
        "immintrin.h",
        ("avx2", "bmi2", "fma"),
        streams=True,
    ),
    Target("neon", "The functions for 64-bit ARM processors.", "__aarch64__", (), "arm_neon.h"),
    Target("portable", "The functions for any processor, in C11 alone."),
)
