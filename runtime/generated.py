"""Generated Triton modules in this process: without a file, and without an environment variable."""

from __future__ import annotations

import linecache
import sys
from types import ModuleType


def module_of(text: str, filename: str, marks: str, interpreted: bool) -> ModuleType:
    """A module of this text, its kernels compiled or interpreted; a process may hold both.

    Args:
        text: of the module, our own.
        filename: what it is called.
        marks: what tells it from others of that name.
        interpreted: whether its kernels run in Triton's interpreter.
    """
    import triton

    marks += " interpreted" if interpreted else " compiled"
    # Triton reads a kernel's source through linecache, and its globals through the module.
    path = f"<fmtc {marks} {filename}>"
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
    stem = filename.removesuffix(".py")
    module = ModuleType(f"fmtc_generated_{stem}_{marks.replace(' ', '_')}")
    module.__file__ = path
    sys.modules[module.__name__] = module
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = interpreted
        exec(compile(text, path, "exec"), module.__dict__)  # noqa: S102 - our own text
    return module
