"""Any format encoded and decoded on a device, as far as torch and a kernel go.

Peaks, scales and words are torch's work here, elements a generated kernel's. The bytes are those
of ``compiler.pipeline``. What is not done on a device is named by ``why_not``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ...compiler.arrange import Arrangement
from ...compiler.format import Format, Zero
from ...compiler.items import record_bytes
from ...compiler.kernel import dense_format, kernel_format, wanted_format
from ...compiler.records import record_moves, records_of, stream_widths
from ...compiler.reference import TensorLevel, calibrate, select_bits
from ...compiler.streams import CENTER, LEVELS, RECORDS, stream_shapes
from ...compiler.view import Trial, View, view_of
from ..backend import BackendUnavailable
from ..choose import backend_for
from ..triton_backend import TritonBackend
from .peaks import DevicePeaks, device_peaks, expand
from .words import (
    block_range,
    block_scales,
    choose,
    from_word,
    lowest,
    pack,
    select_of,
    to_word,
    unpack,
    zero_points,
)

Streams = dict[str, torch.Tensor]


def why_not(fmt: Format) -> str:
    """What keeps a format from being encoded on a device; empty where nothing does."""
    dense, scale = dense_format(fmt), fmt.scale
    zero = None if fmt.zero is None else fmt.zero.stored
    inner = [stored for stored in (scale.stored, zero) if stored is not None]
    several = len(fmt.grids) * max(1, len(scale.targets)) > 1 or scale.search or scale.both_signs
    whole = fmt.extent != "block" or fmt.tile > 1
    centered = scale.center or (fmt.zero is not None and fmt.zero.center)
    reasons = {
        "side streams are made on the host": bool(fmt.sides),
        "errors of blocks of several pieces are summed on the host": bool(several) and whole,
        "weighted errors and cosines are summed on the host": fmt.policies.error != "squared",
        "a second level for every row is worked out on the host": scale.tensor == "rows",
        "the mean of scales is taken on the host": centered,
        "scales in records are stored on the host": any(one.record for one in inner),
    }
    if dense.is_blockwise:
        reasons = {reason: told for reason, told in reasons.items() if "side" in reason}
    said = next((reason for reason, told in reasons.items() if told), "")
    return said or next(filter(None, map(why_not, inner)), "")


def level_of(fmt: Format, x: torch.Tensor) -> TensorLevel:
    """The second level of a tensor [rows, n]: see ``compiler.reference.calibrate``.

    Only the largest magnitude comes to the host, but under ``shift auto`` all of the tensor.
    """
    if fmt.scale.tensor != "fp32" and fmt.scale.shift is not None:
        return calibrate(fmt, np.zeros((0, 0), np.float32))
    if fmt.scale.tensor == "fp32" and not fmt.sides:
        sizes = torch.where(torch.isfinite(x), x, 0).abs()
        largest = float(sizes.amax()) if x.numel() else 0.0
        return calibrate(fmt, np.zeros((0, 0), np.float32), largest)
    return calibrate(fmt, x.float().cpu().numpy())


def encode_on_device(
    fmt: Format, x: torch.Tensor, level: TensorLevel | None = None, *, fall_back: bool = True
) -> Streams:
    """Encode rows where they are.

    Args:
        fmt: any format.
        x: float32, float16 or bfloat16 [rows, n] on any device, finite, or with NaN where the
            format propagates it. On a CPU kernels run in Triton's interpreter.
        level: the tensor's second level; None: that of ``level_of``.
        fall_back: a format that ``why_not`` has a reason for goes through the host.

    Returns:
        Stream name -> uint8 [stream rows, bytes] on the device of x, byte for byte what
        ``compiler.pipeline.encode`` makes.

    Raises:
        BackendUnavailable: there is a reason, and no falling back; or torch or triton is missing.
        ValueError: rows do not divide into the format's records, or hold a NaN that it has no
            word for.
    """
    level = level_of(fmt, x) if level is None else level
    reason = why_not(fmt)
    if reason and not fall_back:
        raise BackendUnavailable(f"'{fmt.name}' is not encoded on a device: {reason}")
    if reason:
        host = backend_for(fmt).encode(x.float().cpu().contiguous().numpy(), level)
        return {name: torch.from_numpy(octets).to(x.device) for name, octets in host.items()}
    dense = dense_format(fmt)
    streams = _encode_dense(dense, x, level)
    return streams if fmt.record is None else {RECORDS: to_records(fmt, streams, x.shape[1])}


def _encode_dense(fmt: Format, x: torch.Tensor, level: TensorLevel) -> Streams:
    if fmt.is_blockwise:
        return TritonBackend(fmt, x.device).encode_tensor(x, level)
    if 0 in x.shape:
        shapes = stream_shapes(fmt, *x.shape)
        empty = {k: torch.zeros(s, dtype=torch.uint8, device=x.device) for k, s in shapes.items()}
        return empty if x.shape[0] == 0 or fmt.scale.stored is None else _of_nothing(fmt, x, level)
    return _Encoder(fmt, x, level).streams()


def _of_nothing(fmt: Format, x: torch.Tensor, level: TensorLevel) -> Streams:
    host = backend_for(fmt).encode(np.zeros(tuple(x.shape), np.float32), level)
    return {name: torch.from_numpy(octets).to(x.device) for name, octets in host.items()}


def decode_on_device(
    fmt: Format,
    streams: Mapping[str, torch.Tensor],
    length: int,
    level: TensorLevel,
    dtype: str = "float32",
) -> torch.Tensor:
    """Decode rows where they are: see ``compiler.pipeline.decode``.

    Args:
        fmt: any format without sides, which are added up on the host.
        streams: as ``encode_on_device`` gives them.
        length: elements of a row.
        level: the tensor's second level.
        dtype: ``float32``, ``float16`` or ``bfloat16``.

    Returns:
        [rows, length] of that type, on the device of the streams.

    Raises:
        BackendUnavailable: the format has sides; or torch or triton is missing.
    """
    if fmt.sides:
        raise BackendUnavailable(f"'{fmt.name}' is not decoded on a device: it has side streams")
    planar = from_records(fmt, streams[RECORDS], length) if fmt.record is not None else streams
    dense = dense_format(fmt)
    codes = planar["codes"].contiguous()
    if dense.is_blockwise:
        own = {stream.name: planar[stream.name] for stream in dense.streams}
        return TritonBackend(dense, codes.device).decode_tensor(own, length, level, dtype)
    if 0 in (len(codes), length):
        return torch.zeros((len(codes), length), dtype=getattr(torch, dtype), device=codes.device)
    arrangement = Arrangement.of(dense, len(codes), length)
    scales, selects = _read_scales(dense, planar, arrangement.block_shape, level)
    zeros = _read_zeros(dense, planar, arrangement.block_shape, selects)
    return TritonBackend(kernel_format(fmt), codes.device).decode_given_tensor(
        codes,
        expand(arrangement, scales),
        expand(arrangement, selects) if dense.select.bits else None,
        None if zeros is None else expand(arrangement, zeros),
        length,
        dtype,
    )


def _read_scales(
    fmt: Format, streams: Mapping[str, torch.Tensor], shape: tuple[int, int], level: TensorLevel
) -> tuple[torch.Tensor, torch.Tensor]:
    """The effective scales and the grids of all blocks."""
    scale, device = fmt.scale, streams["codes"].device
    if scale.stored is not None:
        scales = _stored(streams, scale.stored, shape, scale.flat, scale.center, "scales")
        selects = torch.zeros(shape, dtype=torch.uint8, device=device)
    else:
        words = unpack(streams["scales"], shape[1], scale.word.container)
        multiplier: float | torch.Tensor = level.multiplier
        if scale.tensor == "rows":
            multiplier = streams[LEVELS].contiguous().view(torch.float32)
        scales = block_scales(view_of(fmt), words, multiplier)
        selects = select_of(view_of(fmt), words)
    if fmt.select.place == "field":
        selects = unpack(streams["select"], shape[1], fmt.select.bits).to(torch.uint8)
    return scales, selects


def _read_zeros(
    fmt: Format, streams: Mapping[str, torch.Tensor], shape: tuple[int, int], selects: torch.Tensor
) -> torch.Tensor | None:
    """The zero points or minima of all blocks."""
    zero = fmt.zero
    if zero is None:
        return None
    if zero.stored is not None:
        read = _stored(streams, zero.stored, shape, zero.flat, zero.center, "zeros")
        return -read if zero.negated else read
    bits = zero.bits if zero.word is None else zero.word.container
    words = unpack(streams["zeros"], shape[1], bits)
    if zero.word is None:
        return words.float() + lowest(fmt, selects)
    read = from_word(zero.word, words)
    return -read if zero.negated else read


def _stored(
    streams: Mapping[str, torch.Tensor],
    inner: Format,
    shape: tuple[int, int],
    flat: bool,
    center: bool,
    name: str,
) -> torch.Tensor:
    """Scales or minima that are stored in a format: see ``compiler.stored.read_stored``."""
    own = {k.removeprefix(f"{name}."): s for k, s in streams.items() if k.startswith(f"{name}.")}
    columns = shape[0] * shape[1] if flat else shape[1]
    values = decode_on_device(inner, own, columns, TensorLevel())
    if center:
        most = float(np.finfo(np.float32).max)
        values = (values + own[CENTER].contiguous().view(torch.float32)).clamp(-most, most)
    return values.reshape(shape)


@dataclass
class _Chosen:
    """What has been decided for the blocks, tensors [block rows, block columns]."""

    words: torch.Tensor
    scales: torch.Tensor
    selects: torch.Tensor
    zeros: torch.Tensor | None

    def take(self, better: torch.Tensor, other: _Chosen) -> None:
        """Take the other's choice where it is better."""
        self.words = torch.where(better, other.words, self.words)
        self.scales = torch.where(better, other.scales, self.scales)
        self.selects = torch.where(better, other.selects, self.selects)
        if self.zeros is not None and other.zeros is not None:
            self.zeros = torch.where(better, other.zeros, self.zeros)


class _Encoder:
    """One tensor of a format without sides and record; see ``compiler.general``."""

    def __init__(self, fmt: Format, x: torch.Tensor, level: TensorLevel) -> None:
        self._format, self._multiplier = fmt, level.multiplier
        self._arrangement = Arrangement.of(fmt, *x.shape)
        self._view = view_of(wanted_format(fmt))
        self._backend = TritonBackend(kernel_format(fmt), x.device)
        peaks = device_peaks(self._arrangement, x, self._view.scale.signed_rule)
        if bool(peaks.broken.any()):
            if self._view.scale.nan_magnitude is None or fmt.policies.nan != "propagate":
                raise ValueError("the format has no NaN to propagate")
            broken = expand(self._arrangement, peaks.broken)
            unit = self._arrangement.unit
            x = torch.where(broken.repeat_interleave(unit, dim=1)[:, : x.shape[1]], 0, x)
        self._x, self._peaks = x, peaks

    def streams(self) -> Streams:
        """The streams, by name."""
        chosen = self._choose()
        streams = self._store_scales(chosen)
        streams |= self._store_zeros(chosen)
        select = self._format.select
        if select.place == "field":
            streams["select"] = pack(chosen.selects.long(), select.bits)
        return {"codes": self._codes(chosen)} | streams

    def _choose(self) -> _Chosen:
        """The best trial of every block."""
        trials = self._view.trials
        best, _ = self._try(self._view, trials[0], self._peaks)
        if len(trials) == 1:
            return best
        least = self._error(best)
        for trial in trials[1:]:
            chosen, valid = self._try(self._view, trial, self._peaks)
            error = torch.where(valid, self._error(chosen), torch.inf)
            better = error < least
            best.take(better, chosen)
            least = torch.where(better, error, least)
        return best

    def _try(self, view: View, trial: Trial, peaks: DevicePeaks) -> tuple[_Chosen, torch.Tensor]:
        """What a trial chooses for every block, and where it has a choice to offer."""
        words, scales, valid = choose(view, trial, peaks, self._multiplier)
        zero, zeros = self._format.zero, None
        if zero is not None:
            zeros = low = block_range(zero, peaks)[0]
            if zero.kind == "point":
                zeros = zero_points(view, trial.grid, scales, low)
            elif self._format.scale.codes == "stored" and zero.word is not None:
                zeros = from_word(zero.word, to_word(zero.word, _as_stored(zero, low)))
                zeros = -zeros if zero.negated else zeros
        selects = torch.full_like(words, trial.grid, dtype=torch.uint8)
        return _Chosen(words, scales, selects, zeros), valid

    def _given(
        self, chosen: _Chosen
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """What a kernel is given for every piece."""
        selects, zeros = chosen.selects, chosen.zeros
        return (
            expand(self._arrangement, chosen.scales),
            expand(self._arrangement, selects) if self._format.select.bits else None,
            None if zeros is None else expand(self._arrangement, zeros),
        )

    def _codes(self, chosen: _Chosen) -> torch.Tensor:
        scales, selects, zeros = self._given(chosen)
        usable = torch.where(torch.isfinite(scales), scales, 0.0)
        return self._backend.encode_given_tensor(self._x, usable, selects, zeros)

    def _error(self, chosen: _Chosen) -> torch.Tensor:
        """The squared error of every block, its elements in their order, in binary64."""
        x, unit = self._x, self._arrangement.unit
        given = self._given(chosen)
        codes = self._codes(chosen)
        decoded = self._backend.decode_given_tensor(codes, *given, x.shape[1])
        error = x.double() - decoded.double()
        square = torch.nn.functional.pad(error * error, (0, -x.shape[1] % unit))
        pieces = square.reshape(len(x), -1, unit)
        total = torch.zeros_like(pieces[:, :, 0])
        for i in range(unit):
            total = total + pieces[:, :, i]
        return total

    def _store_scales(self, chosen: _Chosen) -> Streams:
        """The scales' streams; ``chosen.scales`` becomes what they decode to, where that counts."""
        scale, fmt = self._format.scale, self._format
        if scale.stored is not None:
            streams, effective = _store(chosen.scales, scale.stored, scale.flat, "scales")
            if scale.codes == "stored":
                chosen.scales = effective
            return streams
        words = chosen.words
        if scale.codes == "wanted":
            words = to_word(scale.word, chosen.scales, fmt.select.place == "scale.sign")
            view = view_of(fmt)
            bits = [select_bits(view, index) for index in range(len(fmt.grids))]
            words = words | torch.tensor(bits, device=words.device)[chosen.selects.long()]
        return {"scales": pack(words, scale.word.container)}

    def _store_zeros(self, chosen: _Chosen) -> Streams:
        zero, zeros = self._format.zero, chosen.zeros
        if zero is None or zeros is None:
            return {}
        if zero.kind == "point":
            return {"zeros": pack((zeros - lowest(self._format, chosen.selects)).long(), zero.bits)}
        wanted = _as_stored(zero, zeros)
        if zero.stored is None:
            if zero.word is None:
                raise ValueError("a minimum is stored in a word or in a format")
            return {"zeros": pack(to_word(zero.word, wanted), zero.word.container)}
        streams, effective = _store(wanted, zero.stored, zero.flat, "zeros")
        if self._format.scale.codes == "stored":
            chosen.zeros = -effective if zero.negated else effective
        return streams


def _as_stored(zero: Zero, minimum: torch.Tensor) -> torch.Tensor:
    """The minimum or what is left of its sign; a zero is +0, but in a word of its own."""
    if zero.stored is None and not zero.negated:
        return minimum
    return (-minimum if zero.negated else minimum) + 0.0


def _store(
    values: torch.Tensor, inner: Format, flat: bool, name: str
) -> tuple[Streams, torch.Tensor]:
    """Quantize a matrix of scales or minima: see ``compiler.stored.store``."""
    matrix = (values.reshape(1, -1) if flat else values).contiguous()
    packed = _encode_dense(dense_format(inner), matrix, TensorLevel())
    effective = decode_on_device(dense_format(inner), packed, matrix.shape[1], TensorLevel())
    streams = {f"{name}.{part}": octets for part, octets in packed.items()}
    return streams, effective.reshape(values.shape)


def to_records(fmt: Format, streams: Streams, length: int) -> torch.Tensor:
    """uint8 [rows, bytes]: see ``compiler.records.to_records``."""
    count, size = records_of(fmt, length), record_bytes(fmt)
    device, rows = streams["codes"].device, len(streams["codes"])
    records = torch.zeros((rows * count, size), dtype=torch.uint8, device=device)
    widths = stream_widths(fmt)
    for name, moves in record_moves(fmt).items():
        part = streams[name].reshape(rows * count, widths[name])
        for move in moves:
            bits = part[:, _columns(move.sources, device)] & move.mask
            bits = bits << move.shift if move.shift >= 0 else bits >> -move.shift
            records[:, _columns(move.targets, device)] |= bits
    return records.reshape(rows, count * size)


def from_records(fmt: Format, records: torch.Tensor, length: int) -> Streams:
    """The inverse of ``to_records``."""
    count, size = records_of(fmt, length), record_bytes(fmt)
    source = records.reshape(len(records) * count, size)
    parts = {}
    for name, width in stream_widths(fmt).items():
        part = torch.zeros((len(source), width), dtype=torch.uint8, device=records.device)
        for move in record_moves(fmt)[name]:
            bits = source[:, _columns(move.targets, records.device)]
            bits = bits >> move.shift if move.shift >= 0 else bits << -move.shift
            part[:, _columns(move.sources, records.device)] |= bits & move.mask
        parts[name] = part.reshape(len(records), count * width)
    return parts


def _columns(places: object, device: torch.device) -> slice | torch.Tensor:
    """Columns as torch takes them."""
    if isinstance(places, slice):
        return places
    return torch.from_numpy(np.asarray(places)).to(device)
