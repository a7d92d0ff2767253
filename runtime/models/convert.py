"""Turn a model into a Hugging Face folder: a GGUF file as it is, or any model rotated.

Rotation takes the weights off a grid that they were stored on before (see ``rotation``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copymode
from typing import TYPE_CHECKING, Any

from ..atomic import folder_atomically
from ..errors import CorruptFile, UnusableModel
from .common import BadModelFileError, Progress, UnsupportedModelError, quiet
from .gguf_source import load_gguf_model
from .loading import need_transformers
from .perplexity import evaluation_text
from .rotation import massive_channels, rotate

if TYPE_CHECKING:
    import torch

#: A file of weights ends before this; below 1 GB, so that any file system and host takes it.
SHARD = "900MB"
#: Tokens of the sample on which the massive channels are found.
SAMPLE = 512
#: Largest difference of two models' logits, as a part of the largest logit, that is still the
#: same function: binary32 sums in another order give 1e-6 to 1e-5.
CLOSE = 1e-3


@dataclass(frozen=True, slots=True)
class Rotated:
    """What ``rotate_folder`` wrote.

    Attributes:
        folder: where.
        kept: channels of the residual stream that were left alone.
        difference: the largest difference of the logits, before and after, on a sample of text,
            divided by the largest logit; the files that were written are what was run.
    """

    folder: Path
    kept: tuple[int, ...]
    difference: float


def to_folder(model: str | Path, out: str | Path, progress: Progress | None = None) -> Path:
    """Write a GGUF model as a Hugging Face folder: safetensors, config and tokenizer.

    The weights are dequantized to float32, which holds every value that GGUF's types decode to.
    A Llama with the tokenizer of SmolLM2 is read by `load_gguf_model`; what that does not take
    is read by transformers' own ``gguf_file`` support, where it knows the architecture.

    Args:
        model: the .gguf file.
        out: the folder, which appears when it is whole.
        progress: called after each tensor (of the first way only).

    Raises:
        CorruptFile: the file is no GGUF, is cut short or lacks a part of the model.
        UnusableModel: no such file, or neither way reads its architecture.
        MissingPackage: transformers or gguf is not installed.
        FileExistsError: something stands at ``out``.
    """
    out = _absent(out)
    loaded, tokenizer = _read_gguf(Path(model), progress)
    return save_folder(loaded, tokenizer, out)


def rotate_folder(
    model: str | Path,
    out: str | Path,
    seed: int = 0,
    keep: Sequence[int] | str = "auto",
    *,
    dtype: str = "float32",
    progress: Progress | None = None,
) -> Rotated:
    """Write a model with rotated weights, which computes what the model computes.

    Args:
        model: a Hugging Face folder or a .gguf file, of a kind that `rotate` takes.
        out: the folder, which appears when it is whole and its logits have been compared.
        seed: of the rotation.
        keep: channels of the residual stream to leave alone; ``auto``: those that
            `massive_channels` finds on a sample of text; ``none``: no channel.
        dtype: of the weights on disk. Rotation is done in float64; ``bfloat16`` rounds each
            rotated weight once, which is a small change of the model.
        progress: called after each layer.

    Raises:
        CorruptFile: a file of the model is not whole.
        UnusableModel: no model, of a kind that is not rotated, a channel that it has not, or the
            rotated model does not compute the same.
        FileExistsError: something stands at ``out``.
    """
    import torch

    out = _absent(out)
    if dtype not in ("float32", "float64", "bfloat16", "float16"):
        raise UnusableModel(f"weights cannot be written as '{dtype}': name a float type")
    loaded, tokenizer = read_model(model)
    sample = _sample(loaded, tokenizer)
    try:
        kept = _channels(loaded, sample, keep)
        turned = rotate(loaded, seed, kept, progress)
    except (UnsupportedModelError, ValueError) as error:
        raise UnusableModel(f"'{model}': {error}") from error
    turned.to(getattr(torch, dtype))
    with folder_atomically(out) as folder:
        _fill(folder, turned, tokenizer)
        again, _ = read_model(folder)
        difference = _difference(loaded, again, sample)
        bound = CLOSE if dtype in ("float32", "float64") else 1.0
        if not difference <= bound:
            raise UnusableModel(
                f"'{model}': the rotated model's logits differ by {difference:.1e} of the largest; "
                "the model does more than its layers say, and is left as it was"
            )
    return Rotated(out, kept, difference)


def read_model(path: str | Path, dtype: str = "float32") -> tuple[Any, Any]:
    """A causal language model and its tokenizer (None if there is none), on the CPU.

    Args:
        path: a Hugging Face folder or a .gguf file.
        dtype: of the weights in memory.

    Raises:
        CorruptFile: a file of the model is not whole.
        UnusableModel: it is no model, or of an architecture that transformers does not know.
        MissingPackage: transformers is not installed.
    """
    path = Path(path)
    if path.suffix == ".gguf":
        return _read_gguf(path, None)
    if not (path / "config.json").is_file():
        raise UnusableModel(f"'{path}' is no Hugging Face folder: it has no config.json")
    transformers = _transformers()
    import torch
    from safetensors import SafetensorError

    try:
        with quiet():
            model = transformers.AutoModelForCausalLM.from_pretrained(
                path, dtype=getattr(torch, dtype), local_files_only=True
            )
    except SafetensorError as error:
        raise CorruptFile(
            f"'{path}' holds a .safetensors file that is not whole: {error}"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UnusableModel(f"transformers does not load '{path}': {error}") from error
    return model.eval().requires_grad_(requires_grad=False), _tokenizer(path)


def _read_gguf(path: Path, progress: Progress | None) -> tuple[Any, Any]:
    if not path.is_file():
        raise UnusableModel(f"there is no model at '{path}'")
    if path.suffix != ".gguf":
        raise UnusableModel(f"'{path}' is no .gguf file; a Hugging Face folder needs no conversion")
    _transformers()
    try:
        loaded = load_gguf_model(path, progress)
    except BadModelFileError as error:
        raise CorruptFile(str(error)) from error
    except UnsupportedModelError as error:
        return _read_gguf_by_transformers(path, str(error))
    return loaded.model, loaded.tokenizer


def _read_gguf_by_transformers(path: Path, why: str) -> tuple[Any, Any]:
    transformers = _transformers()
    import torch

    said = {"gguf_file": path.name, "local_files_only": True}
    try:
        with quiet():
            model = transformers.AutoModelForCausalLM.from_pretrained(
                path.parent, dtype=torch.float32, **said
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **said)
    # Whatever it does not know ends in errors of many kinds, some of its dependencies'.
    except Exception as error:
        raise UnusableModel(
            f"neither fmtc ({why}) nor transformers ({type(error).__name__}: {error}) reads this "
            "model: convert it to a Hugging Face folder with the tools it was made with"
        ) from error
    return model.eval().requires_grad_(requires_grad=False), tokenizer


def _transformers() -> Any:
    need_transformers()
    with quiet():
        import transformers

        # Its names are fetched when first used, and that is what loads the rest.
        _ = transformers.AutoModelForCausalLM
    return transformers


def _tokenizer(folder: Path) -> Any:
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return None
    try:
        return _transformers().AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UnusableModel(
            f"transformers does not load the tokenizer of '{folder}': {error}"
        ) from error


def _absent(out: str | Path) -> Path:
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(f"'{out}' exists: it is left as it is; name a new folder")
    return out


def save_folder(model: Any, tokenizer: Any, out: Path) -> Path:
    """Write a model and its tokenizer as a Hugging Face folder, whole or not at all."""
    with folder_atomically(out) as folder:
        _fill(folder, model, tokenizer)
    return out


def _fill(folder: Path, model: Any, tokenizer: Any) -> None:
    with quiet():
        model.save_pretrained(folder, max_shard_size=SHARD)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        copymode(folder / "config.json", file)  # safetensors makes files only their owner may read


def _sample(model: Any, tokenizer: Any) -> torch.Tensor:
    """Token ids [tokens] of the package's text, or random ones where there is no tokenizer."""
    import torch

    longest = getattr(model.config, "max_position_embeddings", SAMPLE) or SAMPLE
    if tokenizer is None:
        drawn = torch.Generator().manual_seed(0)
        return torch.randint(model.config.vocab_size, (min(SAMPLE, longest),), generator=drawn)
    text = evaluation_text()[: 16 * SAMPLE]
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor(ids[: min(SAMPLE, longest)])


def _channels(model: Any, sample: torch.Tensor, keep: Sequence[int] | str) -> tuple[int, ...]:
    if isinstance(keep, str):
        if keep not in ("auto", "none"):
            raise ValueError(f"channels to keep are 'auto', 'none' or numbers, not '{keep}'")
        return massive_channels(model, sample) if keep == "auto" else ()
    return tuple(sorted(set(keep)))


def _difference(before: Any, after: Any, sample: torch.Tensor) -> float:
    """The largest difference of logits, divided by the largest logit."""
    import torch

    with torch.inference_mode():
        base = before(input_ids=sample[None], use_cache=False).logits.float()
        other = after(input_ids=sample[None], use_cache=False).logits.float()
    return float((base - other).abs().max() / base.abs().max())
