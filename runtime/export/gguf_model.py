"""What a GGUF file says of a Llama beside its tensors: sizes, tensor names, the tokenizer.

Sources: the GGUF specification (ggml, docs/gguf.md); llama.cpp, convert_hf_to_gguf.py and
llama-vocab.cpp (names of pre-tokenizers).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import UnusableModel

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
#: How a tokenizer splits text before it joins bytes -> what llama.cpp calls that.
_SPLITS = {
    (): "gpt-2",
    ("digits",): "smollm",
    (_WORDS + r"\p{N}{1,3}" + _REST,): "llama-bpe",
    (_WORDS + r"\p{N}" + _REST,): "qwen2",
}


@dataclass(frozen=True, slots=True)
class Llama:
    """The sizes of a Llama, as ``config.json`` has them."""

    config: Mapping[str, Any]
    heads: int
    kv_heads: int
    layers: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Llama:
        """Read a config.

        Raises:
            UnusableModel: another architecture, biases, or a scaled rotary embedding.
        """
        kind = config.get("model_type")
        if kind != "llama":
            raise UnusableModel(
                f"only models of type 'llama' are written as GGUF, this is '{kind}': export it to "
                "bf16, and convert that with llama.cpp's convert_hf_to_gguf.py"
            )
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        scaled = rope.get("rope_type", rope.get("type", "default")) != "default"
        for what, there in (
            ("a scaled rotary embedding", scaled),
            ("biases", bool(config.get("attention_bias") or config.get("mlp_bias"))),
        ):
            if there:
                raise UnusableModel(
                    f"the model has {what}, which is not written as GGUF here: export it to bf16, "
                    "and convert that with llama.cpp's convert_hf_to_gguf.py"
                )
        heads = int(config["num_attention_heads"])
        kv_heads = int(config.get("num_key_value_heads") or heads)
        return cls(config, heads, kv_heads, int(config["num_hidden_layers"]))

    def describe(self, writer: Any, name: str) -> None:
        """Add the sizes to a file."""
        config, rope = self.config, self.config.get("rope_parameters") or {}
        width = int(config["hidden_size"])
        head = int(config.get("head_dim") or width // self.heads)
        writer.add_name(name)
        writer.add_context_length(int(config["max_position_embeddings"]))
        writer.add_embedding_length(width)
        writer.add_block_count(self.layers)
        writer.add_feed_forward_length(int(config["intermediate_size"]))
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.kv_heads)
        writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
        writer.add_rope_freq_base(
            float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
        )
        writer.add_rope_dimension_count(head)
        writer.add_key_length(head)
        writer.add_value_length(head)
        writer.add_vocab_size(int(config["vocab_size"]))

    def tensor_names(self, checkpoint: Checkpoint) -> dict[str, str]:
        """A checkpoint's name -> GGUF's name of every tensor.

        Raises:
            UnusableModel: a tensor is of no Llama.
        """
        import gguf

        known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, self.layers)
        names = {name: known.get_name(name, (".weight",)) for name in checkpoint.names}
        for name, found in names.items():
            if found is None:
                raise UnusableModel(
                    f"'{checkpoint.folder}': GGUF has no name for {name} in a Llama"
                )
        return {name: str(found) for name, found in names.items()}

    def heads_of(self, name: str) -> int | None:
        """How many heads the rows of a matrix belong to, if llama.cpp has them in another order."""
        return {"q_proj": self.heads, "k_proj": self.kv_heads}.get(name.split(".")[-2])


def in_rope_order(rows: Any, heads: int | None) -> Any:
    """Rows of q or k from halves (0, n/2), (1, n/2 + 1)... of a head to pairs (0, 1), (2, 3)...

    Rows of an array of values or of packed bytes: a packed row is a row.
    """
    if heads is None:
        return rows
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def add_tokenizer(writer: Any, folder: Path, vocabulary: int) -> None:
    """Add a byte-level BPE tokenizer and its special tokens to a file.

    Raises:
        UnusableModel: there is no ``tokenizer.json``, or it is of another kind.
    """
    import gguf

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise UnusableModel(f"'{folder}' has no tokenizer.json, which a GGUF file holds as well")
    said = json.loads(file.read_text(encoding="utf-8"))
    split = _split(said)
    if said.get("model", {}).get("type") != "BPE" or split not in _SPLITS:
        raise UnusableModel(
            f"'{file}' is no byte-level BPE that is written as GGUF here: export the model to "
            "bf16, and convert that with llama.cpp's convert_hf_to_gguf.py"
        )
    tokens, kinds = _tokens(said, vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_SPLITS[split])
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    special = gguf.SpecialVocab(folder, load_merges=True, n_vocab=len(tokens))
    special.add_to_gguf(writer, quiet=True)


def _split(said: Mapping[str, Any]) -> tuple[str, ...] | None:
    """What comes before the bytes, None if that is not all or there are no bytes."""
    step = said.get("pre_tokenizer") or {}
    steps = step.get("pretokenizers", [step])
    if said.get("normalizer") or not steps or steps[-1].get("type") != "ByteLevel":
        return None
    if steps[-1].get("add_prefix_space"):
        return None
    found = tuple(_step(one) for one in steps[:-1])
    # The bytes' own regular expression is GPT-2's, and no other is to follow another.
    own = steps[-1].get("use_regex", True)
    return found if own == (found in ((), ("digits",))) else None


def _step(step: Mapping[str, Any]) -> str:
    if step.get("type") == "Digits" and step.get("individual_digits"):
        return "digits"
    if step.get("type") == "Split" and step.get("behavior") == "Isolated":
        return str(step.get("pattern", {}).get("Regex"))
    return "another"


def _tokens(said: Mapping[str, Any], vocabulary: int) -> tuple[list[str], list[int]]:
    """Every token by its number, and of what kind it is."""
    found = {int(i): (token, _NORMAL) for token, i in said["model"]["vocab"].items()}
    for added in said.get("added_tokens", ()):
        kind = _CONTROL if added.get("special") else _USER_DEFINED
        found[int(added["id"])] = (added["content"], kind)
    if max(found) >= vocabulary:
        raise UnusableModel(
            f"the tokenizer has a token {max(found)}, the model's embedding {vocabulary} rows"
        )
    rows = [found.get(i, (f"[PAD{i}]", _UNUSED)) for i in range(vocabulary)]
    return [token for token, _ in rows], [kind for _, kind in rows]
