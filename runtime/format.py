"""``fmtc.Format``: the compiled format with the verbs that need tensors."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import formats
from ..compiler import format as compiled

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .quantized import QuantizedTensor


class Format(compiled.Format):
    """A compiled number format that quantizes tensors.

    The exact value (``grids``, ``scale``, ``bpw``, ``content_hash`` ...) is that of
    ``fmtc.compiler.format.Format``.
    """

    @classmethod
    def of(cls, value: compiled.Format) -> Format:
        """The same format, with verbs."""
        return cls(**{f.name: getattr(value, f.name) for f in fields(compiled.Format)})

    def quantize(self, x: Any, *, backend: str = "auto", weights: Any = None) -> QuantizedTensor:
        """Quantize a NumPy array or torch tensor of any shape along its last axis.

        Args:
            x: float16, bfloat16, float32 or float64, contiguous or not. It is rounded to
                binary32 first. A last block shorter than ``block`` is a block of its own.
            backend: ``auto`` (the fastest that is there), ``c``, ``triton`` or ``reference``;
                all give the same bytes.
            weights: one number for each element of the last axis, not negative: how much its
                squared error counts under ``error weighted`` (for the squared error of outputs:
                the mean square of its inputs), its product under ``error cosine`` (for SOP's
                ACos: the root of that), and its error for the residuals of ``side wr``.

        Raises:
            TypeError: ``x`` is not a floating-point array.
            RefusedInput: ``x`` holds a NaN or an infinity and the format's policy is ``error``.
            BackendUnavailable: the named back end is not to be had on this machine.
        """
        from .quantized import quantize

        return quantize(self, x, backend=backend, weights=weights)

    def decode_table(self) -> NDArray[np.float32]:
        """The value of every select and code: float32 [2^select bits, 2^code bits]."""
        import numpy as np

        from ..compiler.view import view_of

        bits = np.array(view_of(self).decode_bits, np.uint32)
        return bits.view(np.float32).reshape(-1, 1 << self.code_bits)


def load(name_or_path: str | Path) -> Format:
    """The format of a shipped name (``po2_nf4``) or of a .fmt file.

    Raises:
        UnknownFormat: there is no such format or file.
        FormatError: the text has faults; ``str(error)`` is the full report.
    """
    return Format.of(formats.load(name_or_path))
