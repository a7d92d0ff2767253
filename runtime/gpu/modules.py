"""Generated product modules, loaded once: compiled for a device, or their twins interpreted."""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType

from ...codegen.triton.products import Method, emit_product, methods_of
from ...compiler.format import Format
from ..generated import module_of


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

    method = method_named(kernel, name)
    # An AMD device takes no PTX: Triton's own statements do the same there.
    twin = interpreted or torch.version.hip is not None
    ((filename, text),) = emit_product(method, operation, order, twin, given).items()
    marks = f"{kernel.content_hash[:16]} {''.join(map(str, order))}"
    return module_of(text, filename, f"{marks} given" if given else marks, interpreted)
