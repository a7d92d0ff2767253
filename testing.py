"""``fmtc.testing``: what a suite of your own needs to test formats, and to test with them.

>>> from hypothesis import given
>>> import fmtc.testing
>>> @given(fmtc.testing.formats())
... def test_my_kernel_reads_every_format(fmt): ...  # doctest: +SKIP

docs/testing.md has examples to copy.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from .compiler.resolve import compile_text
from .runtime.backend import F32, Backend
from .runtime.choose import backend_for
from .runtime.format import Format
from .runtime.verify import generate, properties
from .runtime.verify.checks import Mismatch
from .runtime.verify.tensors import tensors, weights

__all__ = ["KINDS", "Mismatch", "check", "format_texts", "formats", "tensors", "weights"]

#: What ``formats`` draws from: parts of the language that formats are about.
KINDS = generate.KINDS


def format_texts(kinds: Sequence[str] = KINDS) -> st.SearchStrategy[str]:
    """Texts of .fmt files that compile, of every part of the language.

    Args:
        kinds: of formats, some of ``KINDS``.
    """
    return generate.formats(tuple(kinds))


def formats(kinds: Sequence[str] = KINDS) -> st.SearchStrategy[Format]:
    """Whole valid formats; ``fmt.source`` is the text of one.

    Args:
        kinds: of formats, some of ``KINDS``.
    """
    return format_texts(kinds).map(lambda text: _Drawn.of(compile_text(text)))


class _Drawn(Format):
    """A drawn format: Hypothesis shows it as the text that it was compiled from."""

    def __repr__(self) -> str:
        return f'fmtc.compile_text("""{self.source}""")'


def check(
    fmt: Format,
    x: F32 | None = None,
    *,
    backend: str | Backend = "auto",
    examples: int = 20,
) -> int:
    """Assert everything that holds of any format, on one back end.

    The text prints and parses back; codes, scales and values are those of exact rationals at every
    tie and on tensors that Hypothesis draws (or on ``x``); every code comes back; the properties of
    docs/testing.md hold; and the bytes are the reference's.

    Args:
        fmt: any format.
        x: float32 [rows, n], finite; None: tensors are drawn.
        backend: a name that ``fmtc.Format.quantize`` takes, or an object with ``encode`` and
            ``decode`` of your own, built on ``fmtc.runtime.backend.EngineBackend``.
        examples: how many tensors are drawn for each property.

    Returns:
        How many cases were tried.

    Raises:
        Mismatch: an ``AssertionError`` that shows the property, the text of the format, and
            the least input found that breaks it.
    """
    engine = backend_for(fmt, backend) if isinstance(backend, str) else backend
    return properties.check(fmt, engine, x, examples)
