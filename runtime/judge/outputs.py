"""How far a quantized model's predictions lie from its reference's, token by token.

Both models read the same windows of text (teacher-forced). Of the two distributions over the next
token, p of the reference and q of the quantized model, are taken:

- the negative log likelihood of the token that follows, under both;
- KL(p || q) = sum_v p (log p - log q);
- the expected acceptance rate, EAR = sum_v min(p, q) = 1 - sum_v |p - q| / 2: the chance that the
  best coupling of the two draws the same token (SLQ, arXiv:2605.02404, section 3);
- whether both have the same most likely token.

Logits are taken as float32 and everything after them is float64. Probabilities of 16 bits would
not do: an EAR of identical models would then stay below 1.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RefusedInput
from ..models.perplexity import evaluating, windows_of
from .intervals import Interval, mean_interval

if TYPE_CHECKING:
    import torch

Progress = Callable[[str, int, int], None]

#: Logits that are looked at together; several float64 tensors of this size exist at a time.
_CHUNK = 1 << 20

#: Room that is left on a disk which reference logits are kept on.
_SPARE = 1 << 28


@dataclass(frozen=True, slots=True)
class Window:
    """Means over the predicted tokens of one window.

    Attributes:
        reference_nll: negative log likelihood under the reference, nats a token.
        nll: the same under the quantized model.
        kl: KL(reference || quantized), nats a token.
        ear: expected acceptance rate, 0 to 1.
        agreement: share of tokens whose most likely prediction is the same.
    """

    reference_nll: float
    nll: float
    kl: float
    ear: float
    agreement: float


@dataclass(frozen=True, slots=True)
class Outputs:
    """What was measured on a text; every figure has an interval over windows.

    Attributes:
        context: tokens a window; each predicts all of its tokens but the first.
        windows: one entry a window, in the text's order.
    """

    context: int
    windows: tuple[Window, ...]

    @property
    def tokens(self) -> int:
        """How many tokens were predicted."""
        return len(self.windows) * (self.context - 1)

    def column(self, name: str) -> list[float]:
        """One measure, window by window; ``delta_nll`` is nll - reference_nll."""
        if name == "delta_nll":
            return [w.nll - w.reference_nll for w in self.windows]
        return [getattr(w, name) for w in self.windows]

    @property
    def reference_perplexity(self) -> Interval:
        """exp(mean negative log likelihood) of the reference."""
        return mean_interval(self.column("reference_nll")).exp()

    @property
    def perplexity(self) -> Interval:
        """exp(mean negative log likelihood) of the quantized model."""
        return mean_interval(self.column("nll")).exp()

    @property
    def delta_nll(self) -> Interval:
        """Increase of nll, paired by window: how hard the text is drops out."""
        return mean_interval(self.column("delta_nll"))

    @property
    def kl(self) -> Interval:
        """KL(reference || quantized), nats a token."""
        return mean_interval(self.column("kl")).clipped(0.0, math.inf)

    @property
    def ear(self) -> Interval:
        """Expected acceptance rate."""
        return mean_interval(self.column("ear")).clipped(0.0, 1.0)

    @property
    def agreement(self) -> Interval:
        """Share of tokens with the same most likely prediction."""
        return mean_interval(self.column("agreement")).clipped(0.0, 1.0)

    def values(self) -> dict[str, Any]:
        """JSON-ready values: what ``of_values`` needs, and the figures for a reader."""
        return {
            "context": self.context,
            "tokens": self.tokens,
            "reference_perplexity": self.reference_perplexity.values(),
            "perplexity": self.perplexity.values(),
            "delta_nll": self.delta_nll.values(),
            "kl": self.kl.values(),
            "ear": self.ear.values(),
            "agreement": self.agreement.values(),
            "windows": [{k: _finite(v) for k, v in asdict(w).items()} for w in self.windows],
        }

    @classmethod
    def of_values(cls, values: dict[str, Any]) -> Outputs:
        """The inverse of ``values``."""
        windows = [
            Window(**{k: math.inf if v is None else float(v) for k, v in w.items()})
            for w in values["windows"]
        ]
        return cls(int(values["context"]), tuple(windows))


class ReferenceLogits:
    """A reference's logits of all windows, float32, on disk: the model itself may go.

    They lie in a file without a name, which is gone when it is closed or the process ends, and
    several quantized models can be held against them while only one model is in memory.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        windows: torch.Tensor,
        folder: Path,
        progress: Progress | None = None,
    ) -> None:
        """Run ``model`` on every window.

        Args:
            model: called as ``model(input_ids=(1, context) int64, use_cache=False).logits``.
            windows: int64 [windows, context].
            folder: on the disk that has room for windows * context * vocabulary * 4 bytes.
            progress: called with what is done, steps done, steps in all.

        Raises:
            RefusedInput: logits that are no numbers, or a disk without room.
        """
        self.windows = windows
        self._vocabulary = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()
        try:
            for index, logits in enumerate(_logits(model, windows, "the reference")):
                if not index:
                    self._vocabulary = logits.shape[1]
                    _check_room(folder, len(windows) * logits.nbytes)
                self._file.write(logits.cpu().contiguous().numpy().data)
                if progress:
                    progress("the reference reads the text", index + 1, len(windows))
        except BaseException:
            self.close()
            raise

    def rows(self, window: int, start: int, stop: int) -> torch.Tensor:
        """Logits of some positions of a window: float32 [stop - start, vocabulary]."""
        import torch

        predicted, width = self.windows.shape[1] - 1, 4 * self._vocabulary
        rows = torch.empty(min(stop, predicted) - start, self._vocabulary)
        self._file.seek((window * predicted + start) * width)
        if self._file.readinto(rows.numpy().data.cast("B")) != rows.nbytes:
            raise OSError("reference logits cannot be read back")
        return rows

    def close(self) -> None:
        """Give the room back."""
        self._file.close()

    def __enter__(self) -> ReferenceLogits:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def measure_outputs(
    reference: ReferenceLogits, model: torch.nn.Module, progress: Progress | None = None
) -> Outputs:
    """Hold a model against a reference's logits, window by window.

    Beside the model, memory is taken for the logits of one window (context * vocabulary * 4
    bytes) and a few float64 chunks of 8 MB. Nothing is random; the model is left in its mode.

    Args:
        reference: what the reference said, and the windows.
        model: called as ``model(input_ids=(1, context) int64, use_cache=False).logits``.
        progress: called with what is done, windows done, windows in all.

    Raises:
        RefusedInput: logits that are no numbers, or another vocabulary.
    """
    windows, found = reference.windows, []
    for index, logits in enumerate(_logits(model, windows, "the quantized model")):
        found.append(_window(reference, index, logits))
        if progress:
            progress("the quantized model reads the text", index + 1, len(windows))
    return Outputs(windows.shape[1], tuple(found))


def compare_models(
    reference: torch.nn.Module,
    model: torch.nn.Module,
    tokens: Sequence[int] | torch.Tensor,
    context: int = 512,
    max_tokens: int | None = None,
    progress: Progress | None = None,
) -> Outputs:
    """Hold one model in memory against another on a text; see ``measure_outputs``."""
    windows = windows_of(tokens, context, max_tokens)
    with ReferenceLogits(reference, windows, Path(tempfile.gettempdir()), progress) as kept:
        return measure_outputs(kept, model, progress)


def _logits(model: torch.nn.Module, windows: torch.Tensor, who: str) -> Iterator[torch.Tensor]:
    """Of each window, what predicts its tokens but the first: float32 [context - 1, vocabulary]."""
    import torch

    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with evaluating(model):
        for index, window in enumerate(windows):
            with torch.inference_mode():
                ids = window[None].to(device)
                logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            if bool(torch.isnan(logits).any()):
                raise RefusedInput(
                    f"{who} predicts NaN in window {index} of the text: it cannot be judged; "
                    "look for weights or scales that are not finite"
                )
            yield logits


def _window(reference: ReferenceLogits, index: int, logits: torch.Tensor) -> Window:
    import torch

    targets = reference.windows[index, 1:]
    step = max(1, _CHUNK // logits.shape[1])
    sums = torch.zeros(5, dtype=torch.float64)
    for start in range(0, len(logits), step):
        mine = logits[start : start + step]
        theirs = reference.rows(index, start, start + step).to(mine.device)
        if theirs.shape != mine.shape:
            raise RefusedInput(
                f"the reference's vocabulary has {theirs.shape[1]} tokens, the quantized model's "
                f"{mine.shape[1]}: they cannot be compared"
            )
        sums += token_sums(theirs, mine, targets[start : start + step].to(mine.device)).cpu()
    return Window(*(float(v) / len(logits) for v in sums))


def token_sums(
    reference: torch.Tensor, quantized: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Sums over tokens of the reference's nll, the other's nll, KL, EAR and agreement.

    Equal logits give a KL of exactly 0 and an EAR of exactly 1.

    Args:
        reference: float32 logits [tokens, vocabulary].
        quantized: float32 logits [tokens, vocabulary].
        targets: int64 [tokens], the token that followed.

    Returns:
        float64 [5].
    """
    import torch

    log_p = reference.double().log_softmax(-1)
    log_q = quantized.double().log_softmax(-1)
    nll_p = -log_p.gather(1, targets[:, None]).sum()
    nll_q = -log_q.gather(1, targets[:, None]).sum()
    p, q = log_p.exp(), log_q.exp()
    # A token that the reference rules out adds nothing, though its logarithm is infinite.
    kl = torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1).clamp_min(0.0).sum()
    # Both sum to 1, so that sum min(p, q) = 1 - sum |p - q| / 2; this form is exact where p = q.
    ear = (1.0 - (p - q).abs().sum(-1) / 2).clamp_min(0.0).sum()
    agreement = (reference.argmax(-1) == quantized.argmax(-1)).double().sum()
    return torch.stack([nll_p, nll_q, kl, ear, agreement])


def _check_room(folder: Path, octets: int) -> None:
    free = shutil.disk_usage(folder).free
    if octets + _SPARE > free:
        raise RefusedInput(
            f"the reference's logits take {octets / 2**30:.1f} GiB, and {os.fspath(folder)} has "
            f"{free / 2**30:.1f} GiB free: judge on fewer tokens"
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
