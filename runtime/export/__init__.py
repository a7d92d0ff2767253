"""Checkpoints in the file formats of others: never quantized again, and checked when written.

Importing this package loads neither torch nor a peer's library; ``export`` does when called.
"""

from __future__ import annotations

from pathlib import Path

from .common import Exported, Progress

TARGETS = ("compressed-tensors", "gguf", "bf16")

__all__ = ["TARGETS", "Exported", "export"]


def export(
    folder: str | Path,
    out: str | Path,
    to: str,
    *,
    dtype: str | None = None,
    mixed: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write a checkpoint in another file format, read it back, and compare.

    What is packed is copied code by code from the checkpoint's bytes; nothing is quantized again.
    The folder or file takes its place only when it has been read back and found right.

    Args:
        folder: a checkpoint that fmtc wrote; every file of it is checked first.
        out: a folder, or for ``gguf`` a file; nothing may stand there.
        to: ``compressed-tensors``: NVFP4, MXFP4 and integers, decoded by the library itself to
            compare; ``gguf``: the types of ggml, of a Llama; ``bf16``: a plain Hugging Face
            folder of decoded weights.
        dtype: of what is not packed, and that ``config.json`` tells to load the model in:
            ``bfloat16``, ``float16`` or ``float32``. None: bfloat16; for compressed-tensors
            with integers alone float32, as their scales are.
        mixed: whether matrices in a format that ``to`` lacks are written decoded, in ``dtype``;
            else they are refused.
        progress: called with what is done, tensors done, and tensors in all.

    Raises:
        CorruptFile: a file of the checkpoint is absent, truncated or altered.
        RefusedInput: a matrix is in a format that ``to`` lacks; it is named, and the way out.
        UnusableModel: the model is of a kind that ``to`` is not written for.
        MissingPackage: the peer's library is not installed.
        FileExistsError: something stands at ``out``.
        ValueError: there is no such ``to``.
    """
    if to == "bf16":
        from .bf16 import export_plain

        return export_plain(folder, out, dtype or "bfloat16", progress)
    if to == "compressed-tensors":
        from .compressed_tensors import export_compressed_tensors

        return export_compressed_tensors(folder, out, dtype, mixed, progress)
    if to == "gguf":
        from .gguf import export_gguf

        return export_gguf(folder, out, dtype or "bfloat16", mixed, progress)
    raise ValueError(f"no export to '{to}'; there are {', '.join(TARGETS)}")
