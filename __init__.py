"""fmtc: a compiler for the number formats that large language models are quantized to.

>>> import fmtc
>>> fmt = fmtc.load("po2_nf4")
>>> q = fmt.quantize(x)  # NumPy array or torch tensor, any shape  # doctest: +SKIP
>>> q.dequantize(), q.nbytes  # doctest: +SKIP

Importing this package loads neither NumPy nor torch: names are fetched when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .compiler.block_product import NoBlockProduct
    from .dsl.diagnostics import FormatError
    from .formats import UnknownFormat, compile_text, names
    from .runtime.backend import BackendUnavailable
    from .runtime.block_product import block_product
    from .runtime.checkpoint import read_checkpoint
    from .runtime.checkpoint_writer import write_checkpoint
    from .runtime.errors import CorruptFile, MissingPackage, RefusedInput, UnusableModel
    from .runtime.format import Format, load
    from .runtime.judge import judge
    from .runtime.models.loading import load_model
    from .runtime.prove import prove
    from .runtime.quantized import QuantizedTensor
    from .runtime.runs.recipe import Recipe
    from .runtime.runs.run import quantize_model

_HOMES = {
    "BackendUnavailable": ".runtime.backend",
    "CorruptFile": ".runtime.errors",
    "Format": ".runtime.format",
    "FormatError": ".dsl.diagnostics",
    "NoBlockProduct": ".compiler.block_product",
    "QuantizedTensor": ".runtime.quantized",
    "UnknownFormat": ".formats",
    "block_product": ".runtime.block_product",
    "compile_text": ".formats",
    "MissingPackage": ".runtime.errors",
    "RefusedInput": ".runtime.errors",
    "UnusableModel": ".runtime.errors",
    "Recipe": ".runtime.runs.recipe",
    "judge": ".runtime.judge",
    "load": ".runtime.format",
    "load_model": ".runtime.models.loading",
    "names": ".formats",
    "prove": ".runtime.prove",
    "quantize_model": ".runtime.runs.run",
    "read_checkpoint": ".runtime.checkpoint",
    "write_checkpoint": ".runtime.checkpoint_writer",
}

__all__ = [
    "BackendUnavailable",
    "CorruptFile",
    "Format",
    "FormatError",
    "MissingPackage",
    "NoBlockProduct",
    "QuantizedTensor",
    "Recipe",
    "RefusedInput",
    "UnknownFormat",
    "UnusableModel",
    "__version__",
    "block_product",
    "compile_text",
    "judge",
    "load",
    "load_model",
    "names",
    "prove",
    "quantize_model",
    "read_checkpoint",
    "write_checkpoint",
]


def __getattr__(name: str) -> Any:
    """Fetch a public name from its home when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fmtc' has no attribute '{name}'")
    value = getattr(import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, for completion."""
    return sorted(__all__)
