"""Code generation: one subpackage per target, each a pure function from a format to texts."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ..compiler.format import DIRECT_BITS, Format
from ..compiler.kernel import kernel_format
from ..compiler.scales import is_fp32_word

if TYPE_CHECKING:
    from .design import Design

#: What ``fmtc build --target`` takes. Each names a subpackage with ``emit(fmt)``.
TARGETS = ("c", "triton", "verilog", "vectors", "datasheet")


class NotExpressible(ValueError):
    """A target cannot say this format; the message says why."""


def emit(fmt: Format, target: str, activation: Format | None = None) -> dict[str, str]:
    """The files of one target: relative file name -> text, the same for the same format.

    Args:
        fmt: the format.
        target: one of ``TARGETS``.
        activation: what the hardware's activations are, in blocks of the same length; None: HIF8.
            Other targets do not ask.

    Raises:
        NotExpressible: the target cannot say this format, or hardware not that of the activations.
        ValueError: there is no such target.
    """
    if target not in TARGETS:
        raise ValueError(f"no target '{target}'; there are {', '.join(TARGETS)}")
    if target == "verilog":
        from .verilog import emit_design

        return emit_design(hardware(fmt, activation))
    module = import_module(f".{target}", __name__)
    # Of any format that is not plain C does the elements under given scales: what stands around
    # them is arranged by ``compiler.pipeline``. Triton knows by itself what its kernels can do.
    files: dict[str, str] = module.emit(kernel_format(fmt) if target == "c" else fmt)
    return files


def hardware(fmt: Format, activation: Format | None = None) -> Design:
    """The design of a format's hardware.

    Raises:
        NotExpressible: there is none of these formats, or not of both together.
    """
    from .design import design_of

    for side in (fmt, activation):
        if side is not None:
            _check_hardware(side)
    if activation is not None and activation.sides:
        raise NotExpressible(
            f"no RTL for activations of '{activation.name}': values stand beside the codes"
        )
    if activation is not None and activation.block != fmt.block:
        raise NotExpressible(
            f"no RTL for '{fmt.name}' with activations of '{activation.name}': a block of "
            f"{fmt.block} and one of {activation.block} elements do not meet; take activations in "
            f"blocks of {fmt.block}"
        )
    return design_of(fmt, activation)


def _check_hardware(fmt: Format) -> None:
    """Refuse what the decoder modules do not say: they know one scale word per block."""
    scale = fmt.scale
    wide = scale.word.number.magnitude_bits > DIRECT_BITS and not is_fp32_word(scale.word)
    for lacks, what in (
        (scale.stored is not None, "scales that are stored in a format of their own"),
        (wide, f"table of the {scale.word.number.magnitude_bits}-bit scale word"),
        (fmt.zero is not None, "zero points or minima"),
        (fmt.extent != "block" or fmt.tile > 1, "blocks that are no run of one row"),
    ):
        if lacks:
            raise NotExpressible(f"no RTL for '{fmt.name}': the decoder modules have no {what}")
