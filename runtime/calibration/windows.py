"""Windows of tokens: what a model is calibrated on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RefusedInput, UnusableModel
from ..models.common import of_transformers

if TYPE_CHECKING:
    import torch

#: Characters that are tokenized at once in search of one token; most texts have about four.
_CHARACTERS = 8


def windows_of(folder: Path, text: str, tokens: int, context: int) -> torch.Tensor:
    """Cut a text into windows, by the tokenizer of a model's folder.

    The windows begin at places that are spread evenly over the text, so that all of it counts,
    however long. Each begins with the token that the model expects first, if its tokenizer adds
    one. A text that is too short for that is tokenized as a whole and cut into windows without
    gaps.

    Args:
        folder: a Hugging Face folder.
        text: what to cut.
        tokens: how many in all; what is less than a window is left out.
        context: tokens a window.

    Returns:
        int64 ``[tokens // context, context]``.

    Raises:
        RefusedInput: the text has too few tokens, or the sizes make no window.
        UnusableModel: the folder has no tokenizer that can be loaded.
        MissingPackage: transformers is not installed.
    """
    import torch

    if context < 2 or tokens < context:
        raise RefusedInput(
            f"{tokens} tokens make no window of {context}: one window is the least, of 2 tokens"
        )
    tokenizer = _tokenizer(folder)
    first = _first_tokens(tokenizer)
    count, length = tokens // context, context - len(first)
    if length < 1:
        raise RefusedInput(f"a window of {context} has no room beside the tokens that begin it")
    rows = _spread(tokenizer, text, count, length) or _in_a_row(tokenizer, text, count, length)
    return torch.tensor([[*first, *row] for row in rows], dtype=torch.int64)


def _tokenizer(folder: Path) -> Any:
    known = of_transformers("AutoTokenizer")
    names = {file.name for file in folder.iterdir()}
    if not names & {"tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json"}:
        raise UnusableModel(f"the folder '{folder}' has no tokenizer (tokenizer.json)")
    try:
        return known.from_pretrained(folder, local_files_only=True)
    # The tokenizers library raises plain Exception for a damaged file.
    except Exception as error:
        raise UnusableModel(f"the tokenizer of '{folder}' cannot be loaded: {error}") from error


def _first_tokens(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before every text: a begin token, or nothing."""
    begin = tokenizer.bos_token_id
    added = tokenizer("")["input_ids"]
    return [int(begin)] if begin is not None and added[:1] == [begin] else []


def _encode(tokenizer: Any, text: str) -> list[int]:
    # verbose=False: a text longer than the model's context is cut into windows here.
    encoded = tokenizer(text, add_special_tokens=False, verbose=False)
    ids: list[int] = encoded["input_ids"]
    return ids


def _spread(tokenizer: Any, text: str, count: int, length: int) -> list[list[int]]:
    """Windows from places spread over the text; none where one would run into the next."""
    rows = []
    starts = [_word_start(text, len(text) * i // count) for i in range(count)]
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        room = length * _CHARACTERS
        ids = _encode(tokenizer, text[start : min(start + room, end)])
        while len(ids) <= length and start + room < end:
            room *= 2
            ids = _encode(tokenizer, text[start : min(start + room, end)])
        if len(ids) < length:
            return []
        rows.append(ids[:length])
    return rows


def _word_start(text: str, at: int) -> int:
    """The first place from ``at`` on where a line or, near by, a word begins."""
    if at == 0:
        return 0
    line = text.find("\n", at, at + 400)
    space = line if line >= 0 else text.find(" ", at, at + 400)
    return at if space < 0 else space + (line >= 0)


def _in_a_row(tokenizer: Any, text: str, count: int, length: int) -> list[list[int]]:
    ids = _encode(tokenizer, text)
    if len(ids) < count * length:
        raise RefusedInput(
            f"the text has {len(ids):,} tokens ({len(text):,} characters), and {count} windows of "
            f"{length} need {count * length:,}: give more text, or ask for fewer tokens"
        )
    return [ids[i * length : (i + 1) * length] for i in range(count)]


def refuse_long_windows(config: Any, context: int, folder: Path) -> None:
    """Refuse windows that are longer than the positions a model knows."""
    most = getattr(config, "max_position_embeddings", None)
    if isinstance(most, int) and context > most:
        raise RefusedInput(f"a window of {context} tokens: the model '{folder}' takes {most}")


def read_config(folder: Path) -> Any:
    """The configuration of a model folder, as transformers has it.

    Raises:
        UnusableModel: it is no folder with a configuration that transformers knows, or the
            model in it is quantized already.
        MissingPackage: transformers is not installed.
    """
    known = of_transformers("AutoConfig")
    file = folder / "config.json"
    if not file.is_file():
        raise UnusableModel(
            f"'{folder}' is no Hugging Face folder with a config.json: calibration runs the model, "
            "and needs one"
        )
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        config = known.from_pretrained(folder, local_files_only=True)
    except (ValueError, KeyError, OSError, TypeError, AttributeError) as error:
        raise UnusableModel(f"'{file}' is no configuration that can be used: {error}") from error
    if "quantization_config" in said:
        raise UnusableModel(f"the model in '{folder}' is quantized: calibrate the original")
    return config
