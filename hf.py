"""``import fmtc.hf``: transformers loads and runs the checkpoints that fmtc writes.

>>> import fmtc.hf
>>> from transformers import AutoModelForCausalLM
>>> model = AutoModelForCausalLM.from_pretrained("OUT")  # doctest: +SKIP

docs/models.md has more.
"""

from __future__ import annotations

from .runtime.errors import missing

try:
    from .runtime.models.hf_quantizer import FmtcConfig, FmtcQuantizer, register
except ModuleNotFoundError as error:
    if error.name not in ("torch", "transformers"):
        raise
    raise missing("transformers", "model") from error

__all__ = ["FmtcConfig", "FmtcQuantizer"]

register()
