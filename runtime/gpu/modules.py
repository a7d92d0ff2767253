"""Generated product modules, loaded once: compiled for a device, or their twins interpreted."""

from __future__ import annotations

import linecache
import sys
from functools import lru_cache
from types import ModuleType

from ...codegen.triton.products import Method, emit_product, methods_of
from ...compiler.format import Format


def method_named(kernel: Format, name: str) -> Method:
    """The method of that name.

    Raises:
        ValueError: the format has no such method.
    """
    found = {method.name: method for method in methods_of(kernel)}
    if name not in found:
        raise ValueError(
            f"'{kernel.name}' is not multiplied by '{name}', but by {', '.join(found)}"
        )
    return found[name]


@lru_cache(maxsize=256)
def product_module(
    kernel: Format,
    operation: str,
    name: str,
    order: tuple[int, ...],
    interpreted: bool,
    given: bool = False,
) -> ModuleType:
    """The module of one kernel format, operation and method.

    Raises:
        ValueError: the format has no such method, or blocks that no product kernel takes.
    """
    import torch
    import triton

    method = method_named(kernel, name)
    # An AMD device takes no PTX: Triton's own statements do the same there.
    twin = interpreted or torch.version.hip is not None
    ((filename, text),) = emit_product(method, operation, order, twin, given).items()
    stem, mode = filename.removesuffix(".py"), "interpreted" if interpreted else "compiled"
    marks = f"{kernel.content_hash[:16]} {''.join(map(str, order))} {mode}"
    marks += " given" if given else ""
    # Triton reads a kernel's source through linecache, and its globals through the module.
    path = f"<fmtc {marks} {filename}>"
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
    module = ModuleType(f"fmtc_generated_{stem}_{marks.replace(' ', '_')}")
    module.__file__ = path
    sys.modules[module.__name__] = module
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = interpreted
        exec(compile(text, path, "exec"), module.__dict__)  # noqa: S102 - our own text
    return module
