"""Two quantized tensors multiplied block by block: what the generated hardware computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..compiler import block_product as reference
from .arrays import from_rows

if TYPE_CHECKING:
    from .quantized import QuantizedTensor


def block_product(weights: QuantizedTensor, activations: QuantizedTensor) -> Any:
    """Quantized activations times the transpose of quantized weights, with the hardware's bits.

    A block's sum is an exact integer, and every block is one scaled accumulate with one rounding
    to binary32 (SOP, arXiv:2605.14929; ``fmtc.compiler.block_product`` has the definition). The
    generated RTL gives these bits.

    Args:
        weights: [..., n], of any format whose blocks have a scale word each; it may keep outliers
            and residuals beside the codes.
        activations: [..., n], in blocks of the same length.

    Returns:
        float32, of the shape of the activations without their last axis and then of the weights
        without theirs, in the activations' framework and on their device.

    Raises:
        NoBlockProduct: the formats do not multiply block by block.
        ValueError: the last axes differ, or a side stream is damaged.
    """
    if weights.length != activations.length:
        raise ValueError(
            f"the last axes differ: weights {list(weights.shape)}, "
            f"activations {list(activations.shape)}"
        )
    found = reference.block_product(
        weights.format,
        dict(weights.streams),
        weights.level,
        activations.format,
        dict(activations.streams),
        activations.level,
        weights.length,
    )
    shape = (*activations.shape[:-1], *weights.shape[:-1])
    return from_rows(found, shape, "float32", activations.framework, activations.device)
