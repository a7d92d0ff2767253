"""What runs through the hardware when its energy is taken: real weights and real activations.

The demo's model gives them: one linear layer, and what a text puts before it. Vectors follow each
other as in a unit that computes one output after another: block after block of a weight row and of
a token, so that both operands change every cycle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...codegen.design import Design, Side
from ...codegen.vectors.words import scale_fields
from ...compiler.blockwork import NUMPY
from ...compiler.datapath.operands import Operand
from ...compiler.format import Format
from ...compiler.packing import unpack
from ...compiler.reference import select_of
from ...compiler.streams import RECORDS
from ...compiler.view import view_of
from ..backend import F32
from ..errors import MissingPackage, UnusableModel
from ..format import Format as Quantizer
from .netlist import Bits
from .remember import keep, place, recall

if TYPE_CHECKING:
    import torch

#: The layer that is looked at, the tokens that are read, and what is kept of both.
LAYER = "model.layers.15.mlp.up_proj"
TOKENS, ROWS, LENGTH = 512, 64, 512

#: Enters the name of what is remembered.
EDITION = 1
_SEED = 7

#: Integers of any shape.
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Data:
    """Weights and activations, row for row the factors of one output.

    Attributes:
        source: where they are from, in a line.
        weights, activations: float32 [ROWS, LENGTH].
    """

    source: str
    weights: F32
    activations: F32


@dataclass(frozen=True, eq=False)
class Words:
    """A tensor as the hardware reads it: [rows, blocks] and [rows, blocks, block]."""

    codes: Integers
    scales: Integers
    selects: Integers
    shift: int


def data() -> Data:
    """The demo model's layer, or Gaussian numbers where the model is not installed."""
    try:
        return _model_data()
    except (ImportError, UnusableModel, FileNotFoundError):
        return gaussian_data()


@lru_cache(maxsize=1)
def gaussian_data() -> Data:
    """Independent normal numbers of variance 1."""
    draws = np.random.default_rng(_SEED)
    weights, activations = draws.standard_normal((2, ROWS, LENGTH), dtype=np.float32)
    return Data(
        "Gaussian weights and activations (the demo's model is not there)", weights, activations
    )


@lru_cache(maxsize=1)
def _model_data() -> Data:
    from ..models import find_demo_model

    path = find_demo_model()
    file = place("activity", [EDITION, path.name, path.stat().st_size, LAYER, TOKENS, ROWS, LENGTH])
    known = recall(file)
    if known is None:
        known = [array.tolist() for array in _captured(path)]
        keep(file, known)
    weights, activations = (np.array(rows, np.float32) for rows in known)
    name = path.name.split(".")[0]
    return Data(f"{name}, {LAYER}, {TOKENS} tokens of the King James Bible", weights, activations)


def _captured(path: Any) -> tuple[F32, F32]:
    """Rows of the layer's weights, and of what comes before it for tokens of the text."""
    try:
        import torch

        from ..models import evaluation_text, load_gguf_model
    except ImportError as error:
        raise MissingPackage(str(error)) from error
    loaded = load_gguf_model(path)
    tokens = loaded.encode(evaluation_text())[:TOKENS]
    layer: Any = loaded.model.get_submodule(LAYER)
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
    try:
        with torch.inference_mode():
            loaded.model(input_ids=torch.tensor([tokens]), use_cache=False)
    finally:
        hook.remove()
    activations = seen[0].reshape(-1, seen[0].shape[-1]).float().numpy()
    weights = layer.weight.detach().float().numpy()
    # Rows far apart, so that neither neighbouring words nor neighbouring channels are favoured.
    return (
        weights[:: len(weights) // ROWS][:ROWS, :LENGTH].copy(),
        activations[:: len(activations) // ROWS][:ROWS, :LENGTH].copy(),
    )


def words_of(fmt: Format, x: F32) -> Words:
    """A matrix quantized in a format whose blocks have a scale word each."""
    packed = Quantizer.of(fmt).quantize(x)
    streams = dict(packed.streams)
    length = x.shape[1]
    if fmt.record is not None:
        streams = NUMPY.from_records(fmt, streams[RECORDS], length)
    block = fmt.block if fmt.extent == "block" else length
    blocks = -(-length // block)
    fields = {
        s.name: unpack(streams[s.name], length if s.per == "element" else blocks, s)
        for s in fmt.streams
    }
    scales = fields["scales"]
    selects = fields["select"] if "select" in fields else select_of(view_of(fmt), scales)
    return Words(
        fields["codes"].reshape(len(x), blocks, block).astype(np.int64),
        scales.astype(np.int64),
        selects.astype(np.int64),
        packed.level.shift,
    )


def dot_inputs(design: Design, weights: Words, activations: Words) -> dict[str, Bits]:
    """Port -> bits, a vector for every run of ``design.block`` lanes in the order of the rows.

    Args:
        design: of the lanes that one cycle takes; its formats' own blocks may be longer.
        weights: whose blocks are multiples of the design's.
        activations: likewise, of as many elements.
    """
    lanes = design.block
    coefficients, shifts = operands(design.activations.operand, activations)
    return words_as_ports(
        design,
        weights.codes.reshape(-1, lanes),
        _each(weights.scales, weights, lanes),
        _each(weights.selects, weights, lanes),
        coefficients.reshape(-1, lanes),
        shifts.reshape(-1, lanes),
    )


def words_as_ports(
    design: Design,
    codes: Integers,
    scales: Integers,
    selects: Integers,
    coefficients: Integers,
    shifts: Integers,
) -> dict[str, Bits]:
    """Port -> bits of the dot product's inputs.

    Args:
        design: the dot product's.
        codes: of the weights, [vectors, lanes].
        scales: their scale words, [vectors].
        selects: their grids' indices, [vectors].
        coefficients: of the activations, [vectors, lanes].
        shifts: likewise.
    """
    left, operand = design.weights, design.activations.operand
    return {
        "codes_i": lane_bits(codes, left.code_bits),
        "scale_word_i": port_bits(scales, left.container),
        "select_i": port_bits(selects, left.select_bits),
        "activation_coefficients_i": lane_bits(coefficients, operand.coefficient_bits),
        "activation_shifts_i": lane_bits(shifts, operand.shift_bits),
    }


def scale_inputs(
    design: Design, sums: Integers, valid: Integers, weights: Words, activations: Words
) -> dict[str, NDArray[np.int64]]:
    """Port -> values [rows, blocks] of the scaled accumulate, but for the accumulator.

    Args:
        design: with the formats' own blocks.
        sums: [rows, blocks].
        valid: likewise; 1: the sum counts.
        weights: whose scales the sums are under.
        activations: likewise.
    """
    found = {
        "sum_i": sums,
        "sum_valid_i": valid,
        "exponent_offset_i": np.full_like(sums, -(weights.shift + activations.shift)),
    }
    for prefix, side, words in (
        ("weight", design.weights, weights),
        ("activation", design.activations, activations),
    ):
        for name, values in _scale_fields(side, words.scales).items():
            found[f"{prefix}_{name}_i"] = values
    return found


def _scale_fields(side: Side, scales: Integers) -> dict[str, Integers]:
    table = {int(word): scale_fields(side.fmt, int(word)) for word in np.unique(scales)}
    return {
        name: np.vectorize(lambda word, name=name: table[word][name], otypes=[np.int64])(scales)
        for name, _ in side.scale_fields
    }


def operands(operand: Operand, words: Words) -> tuple[Integers, Integers]:
    """Coefficients and shifts of all elements: [rows, blocks, block] each."""
    table = np.zeros((2, len(operand.words), len(operand.words[0])), np.int64)
    for select, row in enumerate(operand.words):
        for code, word in enumerate(row):
            if word is not None:
                table[:, select, code] = word.coefficient, word.shift
    places = words.selects[:, :, None], words.codes
    return table[0][places], table[1][places]


def _each(values: Integers, words: Words, lanes: int) -> Integers:
    """A block's value for each run of lanes in it."""
    return np.repeat(values.reshape(-1), words.codes.shape[2] // lanes)


def lane_bits(values: Integers, bits: int) -> Bits:
    """uint8 [vectors, lanes * bits] of integers [vectors, lanes], lane 0 first."""
    places = (values[:, :, None] >> np.arange(bits)) & 1
    return places.astype(np.uint8).reshape(len(values), -1)


def port_bits(values: Integers, bits: int) -> Bits:
    """uint8 [vectors, bits], in two's complement, of one port's values."""
    return lane_bits(values.reshape(-1, 1), bits)


def port_values(bits: Bits, *, signed: bool) -> Integers:
    """The integers of a port of at most 62 bits: [vectors]."""
    weights = np.left_shift(np.int64(1), np.arange(bits.shape[1]))
    if signed:
        weights[-1] = -weights[-1]
    found: Integers = bits.astype(np.int64) @ weights
    return found


def selected(inputs: Mapping[str, Bits], ports: Mapping[str, tuple[int, ...]]) -> dict[str, Bits]:
    """The inputs that a netlist has ports for.

    Raises:
        KeyError: it has a port that nothing is known of.
    """
    return {name: inputs[name] for name in ports}
