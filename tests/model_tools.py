"""A model that is small enough for a test and real enough for transformers."""

from __future__ import annotations

from pathlib import Path

import torch

#: Lines that a tokenizer is trained on and a model is run on.
TEXT = "\n".join(
    f"In the {ordinal} year the {animal} of the {place} spoke {count} words to the king."
    for ordinal in ("first", "second", "third", "fourth")
    for animal in ("lion", "raven", "ox", "fish", "dove")
    for place in ("mountain", "river", "desert", "city")
    for count in ("two", "seven", "forty")
)


def tiny_llama(folder: Path, *, layers: int = 3, seed: int = 0, tied: bool = True) -> Path:
    """Write a Hugging Face folder: a random Llama of 64 channels and a trained BPE tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(TEXT.splitlines(), trainer)
    PreTrainedTokenizerFast(tokenizer_object=core).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=core.get_vocab_size(),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).eval()
    torch.random.set_rng_state(state)
    model.save_pretrained(folder)
    return folder
