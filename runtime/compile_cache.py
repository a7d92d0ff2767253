"""Compiling generated C to a shared library, once for each text, compiler and processor."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from .backend import BackendUnavailable

#: The bits of the results depend on the last of these; none allows unsafe mathematics.
BASE_FLAGS = ("-O3", "-std=c11", "-shared", "-fPIC", "-ffp-contract=off")
NATIVE_FLAG = "-march=native"

#: Seconds that a compiler may take for one file.
COMPILE_TIMEOUT = 120

#: Characters of a compiler's complaint that a message repeats.
_COMPLAINT = 600


def cache_directory() -> Path:
    """Where built libraries are kept: $FMTC_CACHE, else fmtc in the XDG cache directory."""
    chosen = os.environ.get("FMTC_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fmtc"


def find_compiler() -> tuple[str, ...]:
    """The C compiler's command: $CC, else the first of cc, gcc and clang on the path.

    Raises:
        BackendUnavailable: there is none.
    """
    chosen = shlex.split(os.environ.get("CC", ""))
    for command in [chosen] if chosen else [["cc"], ["gcc"], ["clang"]]:
        path = shutil.which(command[0])
        if path is not None:
            return (path, *command[1:])
    if chosen:
        raise BackendUnavailable(f"the C compiler of $CC, '{chosen[0]}', is not there")
    raise BackendUnavailable("there is no C compiler (looked for $CC, cc, gcc and clang)")


def compile_library(
    files: Mapping[str, str], *, native: bool = True, extra_flags: tuple[str, ...] = ()
) -> Path:
    """The shared library of generated C files, built unless the cache has it.

    The key is a SHA-256 over the texts, the compiler's version, the flags and, for a
    library that is tuned for this processor, the processor's features. A library appears
    in the cache whole or not at all, so that several processes may build at once.

    Args:
        files: file name -> text; every ``.c`` file is compiled, the others are headers.
        native: use every instruction of this processor.
        extra_flags: further compiler flags.

    Raises:
        BackendUnavailable: no compiler, a compile error, or a cache that cannot be written.
    """
    compiler = find_compiler()
    flags = (*BASE_FLAGS, *extra_flags)
    attempts = [(NATIVE_FLAG, *flags), flags] if native else [flags]
    complaint = ""
    for attempt in attempts:
        library = cache_directory() / f"{_key(files, compiler, attempt)}.so"
        if library.is_file():
            return library
        complaint = _build(files, compiler, attempt, library)
        if not complaint:
            return library
    raise BackendUnavailable(f"'{shlex.join(compiler)}' cannot build the C back end: {complaint}")


def compile_apart(shared: Mapping[str, str], own: Mapping[str, str]) -> Path:
    """The shared library of C files of which many libraries share the most, for any processor.

    Args:
        shared: file name -> text; every ``.c`` file is compiled once for all libraries.
        own: files of this library, compiled with it; they may include headers of ``shared``.

    Raises:
        BackendUnavailable: see ``compile_library``.
    """
    compiler = find_compiler()
    library = cache_directory() / f"{_key({**shared, **own}, compiler, BASE_FLAGS)}.so"
    if library.is_file():
        return library
    headers = {name: text for name, text in shared.items() if not name.endswith(".c")}
    for again in (False, True):
        objects = [
            _object_of({**headers, name: text}, compiler, again)
            for name, text in shared.items()
            if name.endswith(".c")
        ]
        # An object that was cut short on disk does not link: then it is made again.
        complaint = _build({**headers, **own}, compiler, BASE_FLAGS, library, objects)
        if not complaint:
            return library
    raise BackendUnavailable(f"'{shlex.join(compiler)}' cannot build the C back end: {complaint}")


def _object_of(files: Mapping[str, str], compiler: tuple[str, ...], again: bool) -> Path:
    """One compiled C file, from the cache unless it is to be made ``again``."""
    path = cache_directory() / f"{_key(files, compiler, BASE_FLAGS)}.o"
    if again or not path.is_file():
        complaint = _build(files, compiler, (*BASE_FLAGS, "-c"), path)
        if complaint:
            name = shlex.join(compiler)
            raise BackendUnavailable(f"'{name}' cannot build the C back end: {complaint}")
    return path


def load_apart(shared: Mapping[str, str], own: Mapping[str, str]) -> ctypes.CDLL:
    """The loaded library of ``compile_apart``; one that cannot be loaded is built again.

    Raises:
        BackendUnavailable: it cannot be built, or what was built cannot be loaded.
    """
    return _loaded(lambda: compile_apart(shared, own))


def load_library(
    files: Mapping[str, str], *, native: bool = True, extra_flags: tuple[str, ...] = ()
) -> ctypes.CDLL:
    """The loaded library of C files; one that cannot be loaded (cut short on disk) is built again.

    Args:
        files: see ``compile_library``.
        native: see ``compile_library``.
        extra_flags: see ``compile_library``.

    Raises:
        BackendUnavailable: it cannot be built, or what was built cannot be loaded.
    """
    return _loaded(lambda: compile_library(files, native=native, extra_flags=extra_flags))


def _loaded(build: Callable[[], Path]) -> ctypes.CDLL:
    path = build()
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        path.unlink(missing_ok=True)
    try:
        return ctypes.CDLL(str(build()))
    except OSError as error:
        raise BackendUnavailable(f"the built library cannot be loaded: {error}") from error


def function_of(
    library: ctypes.CDLL, name: str, arguments: Sequence[type], result: type | None = None
) -> Callable[..., Any]:
    """A function of a loaded library by its C name, with its argument and result types."""
    function = library[name]
    function.argtypes = arguments
    function.restype = result
    return function


def _build(
    files: Mapping[str, str],
    compiler: tuple[str, ...],
    flags: tuple[str, ...],
    library: Path,
    objects: Sequence[Path] = (),
) -> str:
    """Compile in a temporary directory and move the result in place; the complaint, or ''."""
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=library.parent) as scratch:
            for name, text in files.items():
                (Path(scratch) / name).write_text(text, encoding="utf-8")
            sources = [name for name in files if name.endswith(".c")]
            sources += [str(path.resolve()) for path in objects]
            complaint = _run([*compiler, *flags, "-o", "library.so", *sources], scratch)
            built = Path(scratch) / "library.so"
            if not complaint and not built.is_file():
                return "it ended with status 0, but wrote no library"
            if not complaint:
                built.replace(library)
            return complaint
    except OSError as error:
        raise BackendUnavailable(
            f"the compile cache '{library.parent}' cannot be written ({error.strerror}); "
            "set FMTC_CACHE to a directory of your own"
        ) from error


def _run(command: list[str], directory: str) -> str:
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, timeout=COMPILE_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {COMPILE_TIMEOUT} s"
    except OSError as error:
        return str(error.strerror)
    if done.returncode == 0:
        return ""
    text = done.stderr.decode("utf-8", "replace").strip()
    return text[:_COMPLAINT] or f"it ended with status {done.returncode}"


def _key(files: Mapping[str, str], compiler: tuple[str, ...], flags: tuple[str, ...]) -> str:
    parts = [_version(compiler), *compiler, *flags, platform.machine()]
    if NATIVE_FLAG in flags:
        parts.append(_processor_features())
    for name, text in sorted(files.items()):
        parts += [name, text]
    digest = hashlib.sha256()
    for part in parts:
        octets = part.encode()
        digest.update(len(octets).to_bytes(8, "little") + octets)
    return digest.hexdigest()


@cache
def _version(compiler: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(
            [*compiler, "--version"], capture_output=True, timeout=COMPILE_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")


@cache
def _processor_features() -> str:
    """What -march=native depends on: model and feature flags, as the kernel names them."""
    wanted = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU part")
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(line for line in first.splitlines() if line.split("\t")[0] in wanted)
