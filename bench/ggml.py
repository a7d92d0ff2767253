"""ggml's quantization functions, built from the sources that llama-cpp-python carries.

    python -m fmtc.bench.ggml

downloads that package's source distribution with pip (once), compiles the few files that hold
the functions with this machine's compilers, and prints where the library lies.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from fmtc.runtime.backend import BackendUnavailable
from fmtc.runtime.compile_cache import cache_directory, find_compiler, function_of
from numpy.typing import NDArray

from .machine import processor

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
#: SHA-256 of the source distribution, so that every build is of the same ggml.
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
INSIDE = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/ggml"
#: ggml's own version, as its CMakeLists.txt says it.
GGML_VERSION = "0.25.3"

#: ggml's release build: -O3 for this processor. It leaves contraction to the compiler.
FLAGS = ("-O3", "-DNDEBUG", "-D_GNU_SOURCE", "-march=native", "-fPIC", "-w")
C_FILES = ("src/ggml-quants.c", "src/ggml-cpu/quants.c")
CPP_FILES = ("src/ggml-cpu/vec.cpp",)
#: Machine -> its folder of kernels.
KERNELS = {"x86_64": "x86", "aarch64": "arm"}
#: Kernels of repacked matrices, where the processor has AVX2.
REPACK_FILE = "src/ggml-cpu/arch/x86/repack.cpp"
SECONDS = 600


class GgmlUnavailable(RuntimeError):
    """ggml cannot be had on this machine; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of ggml: its name in C, and the elements and bytes of its block."""

    name: str
    block: int
    octets: int


KINDS = {
    kind.name: kind
    for kind in (
        Kind("q4_0", 32, 18),
        Kind("q4_1", 32, 20),
        Kind("q8_0", 32, 34),
        Kind("iq4_nl", 32, 18),
        Kind("mxfp4", 32, 17),
        Kind("nvfp4", 64, 36),
        Kind("q4_K", 256, 144),
        Kind("q6_K", 256, 210),
    )
}


def row_bytes(kind: str, length: int) -> int:
    """Bytes of a row of ``length`` elements.

    Raises:
        ValueError: the row does not divide into blocks.
    """
    of = KINDS[kind]
    if length % of.block:
        raise ValueError(f"rows of {length} elements do not divide into ggml's {of.block}")
    return length // of.block * of.octets


def quantize(kind: str, x: F32, out: U8) -> None:
    """``quantize_row_KIND_ref`` of float32 [rows, n] to uint8 [rows, row_bytes]."""
    _function(f"quantize_row_{kind}_ref")(x.ctypes.data, out.ctypes.data, x.size)


def dequantize(kind: str, packed: U8, out: F32) -> None:
    """``dequantize_row_KIND`` of whole blocks to as many float32."""
    _function(f"dequantize_row_{kind}")(packed.ctypes.data, out.ctypes.data, out.size)


def quantize_activations(x: F32, out: U8) -> None:
    """The CPU back end's own ``quantize_row_q8_0``, for a vector."""
    _function("quantize_row_q8_0")(x.ctypes.data, out.ctypes.data, x.size)


def dot_rows(
    kind: str, weights: U8 | F32, activations: U8 | F32, out: F32, first: int, end: int
) -> None:
    """``ggml_vec_dot_KIND`` for the rows from ``first`` to ``end``; weights are [rows, bytes]."""
    loaded = library()
    length = activations.size if kind == "f32" else activations.nbytes // 34 * 32
    loaded.bench_dot_rows(
        ctypes.cast(loaded[f"ggml_vec_dot_{kind}"], ctypes.c_void_p),
        length,
        end - first,
        out.ctypes.data + 4 * first,
        weights.ctypes.data + weights.strides[0] * first,
        weights.strides[0],
        activations.ctypes.data,
    )


def repack8(kind: str, packed: U8) -> U8:
    """Eight rows interleaved as ggml does at load time for its ``gemv_KIND_8x8`` on AVX2.

    Of every block of eight rows first the eight scales stand, then their codes in turns of
    eight bytes; Q4_0's codes become two's complement.
    """
    of = KINDS[kind]
    scale = of.octets - of.block // 2
    blocks = packed.reshape(len(packed) // 8, 8, -1, of.octets).transpose(0, 2, 1, 3)
    codes = blocks[..., scale:] ^ np.uint8(0x88 if kind == "q4_0" else 0)
    turns = codes.reshape(*codes.shape[:3], -1, 8).swapaxes(2, 3)
    joined = [part.reshape(*blocks.shape[:2], -1) for part in (blocks[..., :scale], turns)]
    return np.ascontiguousarray(np.concatenate(joined, axis=2)).reshape(len(packed), -1)


def has_repacked() -> bool:
    """Whether ggml repacks matrices on this processor in the way that ``repack8`` does."""
    return platform.machine() == "x86_64" and "avx2" in processor()


def multiply_repacked(
    kind: str, weights: U8, activations: U8, out: F32, first: int, end: int
) -> None:
    """``ggml_gemv_KIND_8x8_q8_0`` for rows from ``first`` to ``end``, multiples of eight."""
    multiply = library()[f"ggml_gemv_{kind}_8x8_q8_0"]
    multiply.argtypes = [ctypes.c_int, _POINTER, _SIZE, _POINTER, _POINTER, *[ctypes.c_int] * 2]
    multiply.restype = None
    multiply(
        activations.nbytes // 34 * 32,
        out.ctypes.data + 4 * first,
        len(out),
        weights.ctypes.data + weights.strides[0] * first,
        activations.ctypes.data,
        1,
        end - first,
    )


_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_size_t


def _function(name: str) -> Callable[[int, int, int], None]:
    """A function of source, target and count."""
    return function_of(library(), name, [_POINTER, _POINTER, ctypes.c_int64])


@cache
def library() -> ctypes.CDLL:
    """The library, built at its first use and then found in the cache.

    Raises:
        GgmlUnavailable: no compiler, no network, or no kernels for this machine.
    """
    loaded = ctypes.CDLL(str(build()))
    loaded.bench_fill_tables()
    loaded.bench_dot_rows.argtypes = [
        _POINTER,
        ctypes.c_int,
        ctypes.c_int64,
        _POINTER,
        _POINTER,
        _SIZE,
        _POINTER,
    ]
    loaded.bench_dot_rows.restype = None
    return loaded


def build() -> Path:
    """The path of the library, which is built unless the cache has it.

    Raises:
        GgmlUnavailable: see ``library``.
    """
    c, cpp = _compilers()
    rest = Path(__file__).with_name("ggml_rest.c")
    key = hashlib.sha256(
        "\n".join([SHA256, c, cpp, processor(), *FLAGS, rest.read_text(encoding="utf-8")]).encode()
    ).hexdigest()[:16]
    folder = cache_directory() / "bench"
    path = folder / f"ggml-{GGML_VERSION}-{key}.so"
    if path.is_file():
        return path
    if platform.machine() not in KERNELS:
        raise GgmlUnavailable(f"no kernels of ggml are built for {platform.machine()}")
    arch = KERNELS[platform.machine()]
    more = [REPACK_FILE] if has_repacked() else []
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ggml-", dir=folder) as scratch:
        sources = _sources(folder, Path(scratch))
        c_files = [*(sources / name for name in C_FILES)]
        c_files += [sources / f"src/ggml-cpu/arch/{arch}/quants.c", rest]
        cpp_files = [sources / name for name in (*CPP_FILES, *more)]
        where = [f"-I{sources / folder}" for folder in ("include", "src", "src/ggml-cpu")]
        objects: list[str] = []
        for compiler, standard, files in ((c, "-std=c11", c_files), (cpp, "-std=c++17", cpp_files)):
            for file in files:
                made = f"{len(objects)}.o"
                _run([compiler, *FLAGS, standard, *where, "-c", str(file), "-o", made], scratch)
                objects.append(made)
        _run([cpp, "-shared", "-o", "library.so", *objects, "-lm"], scratch)
        (Path(scratch) / "library.so").replace(path)
    return path


def _compilers() -> tuple[str, str]:
    try:
        c = find_compiler()[0]
    except BackendUnavailable as error:
        raise GgmlUnavailable(str(error)) from error
    found = (
        shutil.which(name) for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name
    )
    cpp = next((path for path in found if path), None)
    if cpp is None:
        raise GgmlUnavailable("there is no C++ compiler (looked for $CXX, c++, g++ and clang++)")
    return c, cpp


def _sources(folder: Path, scratch: Path) -> Path:
    """The folder of ggml's sources, kept in the cache: downloaded and checked when absent."""
    kept = folder / f"ggml-{GGML_VERSION}"
    if kept.is_dir():
        return kept
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    wanted = ["--no-deps", "--no-binary", PACKAGE, f"{PACKAGE}=={VERSION}"]
    _run([*pip, *wanted, "--dest", str(scratch)], str(scratch))
    archive = scratch / f"llama_cpp_python-{VERSION}.tar.gz"
    if hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
        raise GgmlUnavailable(f"the source of {PACKAGE} {VERSION} is not the one that is known")
    with tarfile.open(archive) as whole:
        for member in whole:
            inner = member.name.removeprefix(f"{INSIDE}/")
            if inner.startswith(("include/", "src/ggml")) and member.isfile():
                if inner.count("/") > 1 and not inner.startswith("src/ggml-cpu/"):
                    continue
                member.name = inner
                whole.extract(member, scratch / "ggml", filter="data")
    try:
        (scratch / "ggml").replace(kept)
    except OSError:  # another process was faster
        if not kept.is_dir():
            raise
    return kept


def _run(command: list[str], directory: str) -> None:
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GgmlUnavailable(f"'{command[0]}' failed: {error}") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in said if "error" in line.lower()] or said or ["no message"]
        what = "pip cannot download ggml's source" if "pip" in command else f"'{command[0]}' failed"
        raise GgmlUnavailable(f"{what}: {errors[0].strip()}")


if __name__ == "__main__":
    try:
        print(build())
    except GgmlUnavailable as why:
        sys.exit(f"skipped: {why}")
