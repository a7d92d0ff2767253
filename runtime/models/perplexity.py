"""Perplexity of a causal language model on a public text, with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from .common import Progress


@dataclass(frozen=True, slots=True)
class Perplexity:
    """The outcome of `perplexity`.

    Attributes:
        nll: mean negative log likelihood of a token, in nats.
        stderr: standard error of ``nll`` over windows (tokens of one window depend on each
            other, so counting them singly would understate it); NaN for a single window.
        tokens: how many tokens were predicted.
        windows: the mean negative log likelihood of each window.
    """

    nll: float
    stderr: float
    tokens: int
    windows: tuple[float, ...]

    @property
    def ppl(self) -> float:
        """Perplexity per token, exp(nll)."""
        return math.exp(self.nll)

    def difference(self, base: Perplexity) -> tuple[float, float]:
        """Return the mean and standard error of ``self.nll - base.nll``, window against window.

        Both must come from the same text and context. Pairing takes out how hard the text is, so
        this error is far smaller than either ``stderr``.

        Raises:
            ValueError: the two have different numbers of windows.
        """
        if len(self.windows) != len(base.windows):
            raise ValueError(
                f"windows cannot be paired: {len(self.windows)} against {len(base.windows)}"
            )
        return _mean_and_stderr([a - b for a, b in zip(self.windows, base.windows, strict=True)])


def evaluation_text() -> str:
    """Return the public-domain text that comes with the package (see ``data/SOURCE.md``)."""
    return (files(__package__) / "data" / "kjv.txt").read_text(encoding="ascii")


def windows_of(
    tokens: Sequence[int] | torch.Tensor, context: int, limit: int | None = None
) -> torch.Tensor:
    """Cut token ids into windows that do not overlap: int64 [windows, context].

    A last window shorter than ``context`` is left out, unless it is the only one.

    Args:
        tokens: ids, one-dimensional.
        context: tokens a window, at least 2.
        limit: use only so many tokens; None for all.

    Raises:
        ValueError: a context below 2, tokens of another rank, or fewer than two of them.
    """
    import torch

    if context < 2:
        raise ValueError(f"a context of {context} predicts nothing; at least 2 is needed")
    ids = torch.as_tensor(tokens, dtype=torch.int64)
    if ids.dim() != 1 or len(ids[:limit]) < 2:
        raise ValueError(f"at least two tokens in one dimension are needed, not {tuple(ids.shape)}")
    ids = ids[:limit]
    context = min(context, len(ids))
    return ids[: len(ids) // context * context].reshape(-1, context)


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Keep a model in eval mode, and leave it in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def perplexity(
    model: torch.nn.Module,
    tokens: Sequence[int] | torch.Tensor,
    context: int = 512,
    max_tokens: int | None = None,
    progress: Progress | None = None,
) -> Perplexity:
    """Measure how well ``model`` predicts ``tokens``, in windows that do not overlap.

    Each window starts afresh and predicts all its tokens but the first. A last window shorter
    than ``context`` is left out, unless it is the only one, so that all windows weigh the same.
    Logits are taken to float32 and their losses summed in float64; nothing is random.

    Args:
        model: called as ``model(input_ids=(1, context) int64, use_cache=False)``; the result's
            ``logits`` have the shape (1, context, vocabulary). Evaluated in eval mode, and left in
            the mode it was in.
        tokens: the text's token ids, one-dimensional.
        context: tokens a window, at least 2.
        max_tokens: use only so many tokens of the text; None for all.
        progress: called after each window.

    Raises:
        ValueError: a context below 2, tokens of another rank, or fewer than two of them.
    """
    import torch

    windows = windows_of(tokens, context, max_tokens)
    context = windows.shape[1]

    losses = []
    with evaluating(model), torch.inference_mode():
        for done, window in enumerate(windows, start=1):
            losses.append(_window_nll(model, window))
            if progress is not None:
                progress(done, len(windows))
    nll, stderr = _mean_and_stderr(losses)
    return Perplexity(nll, stderr, len(windows) * (context - 1), tuple(losses))


def _window_nll(model: torch.nn.Module, window: torch.Tensor) -> float:
    from torch.nn.functional import cross_entropy

    logits = model(input_ids=window[None], use_cache=False).logits[0, :-1].float()
    return float(cross_entropy(logits, window[1:], reduction="none").double().mean())


def _mean_and_stderr(values: Sequence[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))
