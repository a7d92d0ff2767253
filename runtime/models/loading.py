"""Checkpoints of fmtc as models of transformers: packed, as they lie on disk, or decoded."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint import Checkpoint
from ..errors import CorruptFile, UnusableModel, missing
from .common import Progress, quiet

if TYPE_CHECKING:
    import torch

RUNS = ("packed", "dequantized")
CONFIG = "config.json"


def load_model(
    folder: str | Path,
    *,
    run: str = "packed",
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
    progress: Progress | None = None,
) -> Any:
    """Load a checkpoint as the transformers model that its ``config.json`` describes.

    Every byte that is used is checked against ``fmtc.json``. Memory holds the model and one
    tensor more.

    Args:
        folder: a checkpoint that fmtc wrote, of a model with a ``config.json``.
        run: ``packed``: linear layers are `fmtc.nn.Linear`, as ``from_pretrained`` makes them
            after ``import fmtc.hf``, bit for bit. ``dequantized``: plain `torch.nn.Linear` with
            the decoded weights, rounded once to ``dtype``; its sums are torch's, in torch's
            order, so its logits agree up to rounding.
        device: where the model goes.
        dtype: of activations and of what is not packed (and of decoded weights); None: that of
            ``config.json``.
        progress: called after each tensor that is decoded (``dequantized`` only).

    Returns:
        A `transformers.PreTrainedModel` in eval mode, with its generation config.

    Raises:
        CorruptFile: a file is absent, truncated, altered or of another checkpoint.
        UnusableModel: no ``config.json``, or a model that transformers does not know.
        MissingPackage: transformers is not installed.
        ValueError: there is no such ``run``.
    """
    if run not in RUNS:
        raise ValueError(f"no run '{run}'; there are {' and '.join(RUNS)}")
    checkpoint = Checkpoint(folder)
    checkpoint.check_files()
    if not (checkpoint.folder / CONFIG).is_file():
        raise UnusableModel(
            f"'{folder}' has no {CONFIG}, so nothing says which model its tensors belong to: "
            "read them with fmtc.read_checkpoint(folder), one by one or as a state_dict()"
        )
    load = _packed if run == "packed" else _dequantized
    need_transformers()
    with quiet():
        model, report = load(checkpoint, _dtype(dtype), progress)
    _refuse_gaps(checkpoint, model, report)
    return model.eval().to(device)


def _packed(checkpoint: Checkpoint, dtype: Any, progress: Progress | None) -> tuple[Any, Any]:
    from .hf_quantizer import register

    register()
    folder = checkpoint.folder
    kind = _model_class(_config(folder))
    del progress  # packed tensors are read as they are: there is nothing to wait for
    with _explained(folder):
        model, report = kind.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    return model, report


def _dequantized(checkpoint: Checkpoint, dtype: Any, progress: Progress | None) -> tuple[Any, Any]:
    import torch

    config = _config(checkpoint.folder)
    if dtype == "auto":
        dtype = config.dtype if config.dtype is not None else torch.float32
    state = {}
    for done, name in enumerate(checkpoint.names, start=1):
        state[name] = _decoded(checkpoint, name, dtype)
        if progress is not None:
            progress(done, len(checkpoint.names))
    del config.quantization_config
    with _explained(checkpoint.folder):
        model, report = _model_class(config).from_pretrained(
            None, config=config, state_dict=state, dtype=dtype, output_loading_info=True
        )
    _give_generation_config(model, checkpoint.folder)
    model.config.name_or_path = str(checkpoint.folder)
    return model, report


def _decoded(checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> torch.Tensor:
    import torch

    if name not in set(checkpoint.quantized_names):
        return checkpoint.tensor(name)
    packed = checkpoint.quantized(name)
    return torch.from_numpy(packed.to_float32().reshape(packed.shape)).to(dtype)


def _give_generation_config(model: Any, folder: Path) -> None:
    from transformers import GenerationConfig

    if (folder / "generation_config.json").is_file() and model.can_generate():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)


def _refuse_gaps(checkpoint: Checkpoint, model: Any, report: Any) -> None:
    """Refuse a checkpoint that lacks a weight of the model, or has one too many."""
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    for what, names in (
        ("lacks", set(report["missing_keys"]) - tied),
        ("has no place for", set(report["unexpected_keys"])),
    ):
        if names:
            raise UnusableModel(
                f"'{checkpoint.folder / CONFIG}' and the tensors do not fit: transformers' "
                f"{type(model).__name__} {what} {min(names)}"
            )


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Errors of transformers as errors that name the folder."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise CorruptFile(
            f"'{folder}' holds a .safetensors file that is not whole: {error}"
        ) from error
    except (CorruptFile, UnusableModel):
        raise
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise UnusableModel(f"transformers does not load '{folder}': {error}") from error


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    with _explained(folder):
        return AutoConfig.from_pretrained(folder, local_files_only=True)


def _model_class(config: Any) -> Any:
    """The class that the config names, or the causal model of its kind."""
    import transformers

    for name in config.architectures or ():
        kind = getattr(transformers, name, None)
        if kind is not None:
            return kind
    return transformers.AutoModelForCausalLM


def need_transformers() -> None:
    """Refuse to go on without torch and transformers.

    Raises:
        MissingPackage: one of them is not installed.
    """
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise missing(package, "model")


def _dtype(dtype: torch.dtype | str | None) -> Any:
    import torch

    if dtype is None:
        return "auto"
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"'{dtype}' is no float type of torch")
    return found
