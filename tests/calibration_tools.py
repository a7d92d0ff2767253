"""Small models of many kinds, and a plain reading of what calibration promises."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import transformers
from fmtc.runtime.calibration.windows import windows_of
from model_tools import TEXT, tiny_llama

SIZES = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

#: Dense models: what transformers calls the configuration, and what it has beside SIZES.
DENSE = {
    "Mistral": {"sliding_window": 16},
    "Qwen2": {},
    "Qwen3": {"head_dim": 16},
    "Gemma3Text": {"head_dim": 16, "sliding_window": 16, "num_hidden_layers": 7},
    "Phi3": {},
    "GPTNeoX": {},
    "OPT": {"ffn_dim": 96, "word_embed_proj_dim": 32},
    "Bloom": {},
}

#: Mixtures of experts.
EXPERTS = {
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen3Moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "head_dim": 16,
    },
}


def small_model(folder: Path, kind: str, **settings: object) -> Path:
    """Write the folder of a random model, with the tokenizer of the tiny Llama."""
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:  # at birth they are ones and zeros
                parameter.data.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    add_tokenizer(folder)
    return folder


def add_tokenizer(folder: Path) -> None:
    """Give a folder the tiny Llama's tokenizer."""
    donor = tiny_llama(folder / "donor", layers=1)
    for file in donor.glob("tokenizer*"):
        shutil.copy(file, folder)
    shutil.rmtree(donor)


def whole_model(folder: Path) -> torch.nn.Module:
    """The model as transformers loads it, in float32."""
    load = transformers.AutoModelForCausalLM.from_pretrained
    return load(folder, dtype=torch.float32, experts_implementation="eager").eval()


def seen_by_linears(folder: Path, tokens: int, context: int) -> dict[str, torch.Tensor]:
    """Weight name -> all inputs float64 [tokens, in] of each nn.Linear, by hooks."""
    model = whole_model(folder)
    found: dict[str, list[torch.Tensor]] = {}

    def watch(name: str) -> object:
        def look(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            rows = args[0].detach().double().flatten(0, -2)
            found.setdefault(f"{name}.weight", []).append(rows)

        return look

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(watch(name))
    windows = windows_of(folder, TEXT, tokens, context)
    with torch.no_grad():
        for window in windows:
            model(input_ids=window[None], use_cache=False)
    return {name: torch.cat(rows) for name, rows in found.items()}


def norms_of(rows: torch.Tensor) -> torch.Tensor:
    """sqrt(E[x_j^2]), float32."""
    return rows.square().mean(0).sqrt().float()


def hessian_of(rows: torch.Tensor) -> torch.Tensor:
    """E[x x^T], float32."""
    return (rows.T @ rows / len(rows)).float()
