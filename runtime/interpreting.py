"""Triton's interpreter beside its compiler, in one process.

Triton chooses once, at its import, whether its own library is compiled or interpreted. Here both
live together, so for a launch the library's functions that our kernels use are replaced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


@contextlib.contextmanager
def interpreting() -> Iterator[None]:
    """Make interpreted kernels run: ``tl.max``, ``min``, ``sum``, and run-time bounds of loops."""
    from triton import language as tl
    from triton.language import standard
    from triton.runtime import interpreter

    def reduction(combine: object) -> Callable[..., Any]:
        return lambda values, axis=None: tl.reduce(values, axis, combine)

    patch_tensor = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        # NumPy 2.4 no longer makes an integer of an array with one axis.
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    replaced: list[tuple[Any, str, object]] = [
        (tl, "max", reduction(standard._elementwise_max)),
        (tl, "min", reduction(standard._elementwise_min)),
        (tl, "sum", reduction(standard._sum_combine)),
        (interpreter, "_patch_lang_tensor", patched),
    ]
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    for owner, name, function in replaced:
        setattr(owner, name, function)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        for owner, name, function in kept:
            setattr(owner, name, function)
