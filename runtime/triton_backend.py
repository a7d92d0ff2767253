"""Triton as a back end: on a CUDA device, or in Triton's interpreter where there is none.

The generated modules' texts are compiled in this process, without a file and without an
environment variable; one process may hold both a compiled and an interpreted copy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..codegen.triton import emit
from ..compiler.engine import Engine, ReferenceEngine
from ..compiler.format import Format
from ..compiler.kernel import kernel_format
from ..compiler.narrow import NUMBERS, Decoded
from ..compiler.reference import TensorLevel
from ..compiler.thresholds import scale_thresholds
from ..compiler.view import view_of
from .backend import BackendUnavailable, EngineBackend
from .generated import module_of
from .interpreting import interpreting
from .native.blocks import block_work
from .threads import processors

if TYPE_CHECKING:
    import torch

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

#: The interpreter takes milliseconds for a program whatever its size: elements of one program.
INTERPRETED_TILE = 1 << 17


def require() -> None:
    """Check that torch and triton can be imported.

    Raises:
        BackendUnavailable: one is missing; the message says how to get it.
    """
    for module, extra in (("torch", "torch"), ("triton", "gpu")):
        if find_spec(module) is None:
            raise BackendUnavailable(f"{module} is not installed: pip install 'fmtc[{extra}]'")


@lru_cache(maxsize=16)
def _texts(fmt: Format) -> dict[str, str]:
    """The texts of all modules of a format: one is seldom asked for alone."""
    return emit(fmt)


@lru_cache(maxsize=256)
def load_module(fmt: Format, operation: str, interpreted: bool) -> ModuleType:
    """The generated module of a format and operation, its kernels compiled or interpreted.

    Args:
        fmt: the format.
        operation: ``encode``, ``decode`` or a product, as the module's file is called.
        interpreted: whether its kernels run in Triton's interpreter.

    Raises:
        BackendUnavailable: torch or triton is missing.
        ValueError: Triton cannot express the format, or there is no such module.
    """
    require()
    filename = f"{fmt.name}_{operation}.py"
    text = _texts(fmt).get(filename)
    if text is None:
        raise ValueError(f"triton: '{fmt.name}' needs its scales given: no {operation}")
    return module_of(text, filename, fmt.content_hash[:16], interpreted)


class TritonBackend:
    """Encodes and decodes rows with the generated kernels.

    Args:
        fmt: the format.
        device: a torch device; None takes the first CUDA device, and the interpreter on
            the CPU where there is none.

    Raises:
        BackendUnavailable: torch or triton is missing.
        ValueError: Triton cannot express the format.
    """

    name = "triton"

    def __init__(self, fmt: Format, device: str | torch.device | None = None) -> None:
        require()
        import torch

        fallback = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(fallback if device is None else device)
        self.interpreted = self.device.type == "cpu"
        self._format = fmt
        _texts(fmt)  # a format that cannot be expressed is refused here
        self.blocks = block_work(processors())

    def inner(self, fmt: Format) -> Engine:
        """See ``Engine.inner``: scales are few, and their elements stay on the host."""
        return ReferenceEngine(kernel_format(fmt))

    def encode(self, x: F32, level: TensorLevel) -> dict[str, U8]:
        """See ``Backend.encode``."""
        encoded = self.encode_tensor(self._tensor(x), level)
        return {name: stream.cpu().numpy() for name, stream in encoded.items()}

    def decode(
        self, streams: dict[str, U8], length: int, level: TensorLevel, dtype: str = "float32"
    ) -> Decoded:
        """See ``Backend.decode``."""
        tensors = {name: self._tensor(stream) for name, stream in streams.items()}
        return _array(self.decode_tensor(tensors, length, level, dtype))

    def encode_given(self, x: F32, scales: F32, selects: U8 | None, zeros: F32 | None) -> U8:
        """See ``Engine.encode_given``."""
        codes: U8 = (
            self.encode_given_tensor(
                self._tensor(x), self._tensor(scales), self._maybe(selects), self._maybe(zeros)
            )
            .cpu()
            .numpy()
        )
        return codes

    def decode_given(
        self,
        codes: U8,
        scales: F32,
        selects: U8 | None,
        zeros: F32 | None,
        length: int,
        dtype: str = "float32",
        out: Decoded | None = None,
    ) -> Decoded:
        """See ``Engine.decode_given``; writes to ``out`` where given."""
        decoded = self.decode_given_tensor(
            self._tensor(codes),
            self._tensor(scales),
            self._maybe(selects),
            self._maybe(zeros),
            length,
            dtype,
        )
        if out is None:
            return _array(decoded)
        out[...] = _array(decoded)
        return out

    def encode_tensor(self, x: torch.Tensor, level: TensorLevel) -> dict[str, torch.Tensor]:
        """Streams of a tensor [rows, n] on the back end's device; no host copy.

        Args:
            x: float32, float16 or bfloat16, read as they are and widened in the kernel.
            level: the tensor's second level.

        Returns:
            Stream name -> uint8 [rows, bytes], on the same device.
        """
        import torch

        table = scale_thresholds(view_of(self._format), level.multiplier)
        thresholds = torch.from_numpy(table).to(x.device)
        encoded: dict[str, torch.Tensor] = self._launch(
            "encode", x, thresholds, level.multiplier, **self._tile(*x.shape)
        )
        return encoded

    def decode_tensor(
        self,
        streams: dict[str, torch.Tensor],
        length: int,
        level: TensorLevel,
        dtype: str = "float32",
    ) -> torch.Tensor:
        """[rows, length] from streams on the back end's device; no host copy.

        Values are rounded once to binary32, and then to ``dtype`` (see ``narrow``).
        """
        decoded: torch.Tensor = self._launch(
            "decode",
            streams,
            int(length),
            level.multiplier,
            dtype=_torch_type(dtype),
            **self._tile(len(streams["codes"]), length),
        )
        return decoded

    def encode_given_tensor(
        self,
        x: torch.Tensor,
        scales: torch.Tensor,
        selects: torch.Tensor | None = None,
        zeros: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Codes of a tensor [rows, n] under the effective scales of its blocks.

        Args:
            x: float32, float16 or bfloat16 [rows, n], finite, on the back end's device, as all
                the others.
            scales: float32 [rows, blocks of a row]: a negative one mirrors the grid, and a zero
                compares as one.
            selects: uint8 [rows, blocks of a row], every block's grid; None: all the first.
            zeros: float32 [rows, blocks of a row], zero points or minima, for a format that has
                them and for no other.

        Returns:
            uint8 [rows, bytes].

        Raises:
            ValueError: ``zeros`` are missing or not wanted, or a shape is not the one above.
        """
        given = self._given(scales, selects, zeros)
        codes: torch.Tensor = self._launch("encode_given", x, **given, **self._tile(*x.shape))
        return codes

    def decode_given_tensor(
        self,
        codes: torch.Tensor,
        scales: torch.Tensor,
        selects: torch.Tensor | None,
        zeros: torch.Tensor | None,
        length: int,
        dtype: str = "float32",
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[rows, length] from the codes and what ``encode_given_tensor`` was given.

        Values are rounded once to binary32, and then to ``dtype`` (see ``narrow``). ``out`` is a
        contiguous [rows, length] of that type to write to, allocated when None.
        """
        given = self._given(scales, selects, zeros)
        decoded: torch.Tensor = self._launch(
            "decode_given",
            codes,
            **given,
            length=int(length),
            dtype=_torch_type(dtype),
            out=out,
            **self._tile(len(codes), length),
        )
        return decoded

    def _given(
        self,
        scales: torch.Tensor,
        selects: torch.Tensor | None,
        zeros: torch.Tensor | None,
    ) -> dict[str, torch.Tensor | None]:
        """Keywords of what is given for every block."""
        fmt = self._format
        if (zeros is None) != (fmt.zero is None):
            wanted = "no zeros" if fmt.zero is None else f"a {fmt.zero.kind} for every block"
            raise ValueError(f"the format '{fmt.name}' takes {wanted}")
        given = {"scales": scales, "selects": selects}
        return given if fmt.zero is None else {**given, "zeros": zeros}

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        import torch

        writable = array if array.flags.writeable else array.copy()
        return torch.from_numpy(np.ascontiguousarray(writable)).to(self.device)

    def _maybe(self, array: NDArray[Any] | None) -> torch.Tensor | None:
        return None if array is None else self._tensor(array)

    def _tile(self, rows: int, length: int) -> dict[str, int]:
        if not self.interpreted:
            return {}
        needed = _power_of_two(rows * -(-length // self._format.block))
        return {"blocks": max(1, min(needed, INTERPRETED_TILE // _lanes(self._format)))}

    def _launch(self, function: str, *args: object, **kwargs: object) -> Any:
        module = load_module(self._format, function.removesuffix("_given"), self.interpreted)
        call: Callable[..., Any] | None = getattr(module, function, None)
        if call is None:
            raise ValueError(f"triton: '{self._format.name}' needs its scales given: no {function}")
        with interpreting() if self.interpreted else contextlib.nullcontext():
            return call(*args, **kwargs)


class BlockwiseBackend(EngineBackend):
    """A format whose scales are searched for, done by kernels that search.

    Args:
        fmt: a format that is blockwise (``Format.is_blockwise``).

    Raises: as ``TritonBackend``.
    """

    def __init__(self, fmt: Format) -> None:
        super().__init__(fmt, TritonBackend(kernel_format(fmt)), TritonBackend.name)
        self._alone = TritonBackend(fmt)

    def encode(self, x: F32, level: TensorLevel, weights: F32 | None = None) -> dict[str, U8]:
        """See ``Backend.encode``; there are no weights in the error of such a format."""
        del weights
        return self._alone.encode(x, level)

    def decode(
        self, streams: dict[str, U8], length: int, level: TensorLevel, dtype: str = "float32"
    ) -> Decoded:
        """See ``Backend.decode``."""
        return self._alone.decode(streams, length, level, dtype)


def _torch_type(dtype: str) -> torch.dtype:
    """What torch calls a type to decode to.

    Raises:
        ValueError: it is none of ``compiler.narrow.NUMBERS``.
    """
    import torch

    if dtype not in NUMBERS:
        raise ValueError(f"no numbers '{dtype}' to decode to; there are {', '.join(NUMBERS)}")
    named: torch.dtype = getattr(torch, dtype)
    return named


def _array(decoded: torch.Tensor) -> Decoded:
    """Decoded values as ``narrow`` gives them: bfloat16 as its bits."""
    import torch

    if decoded.dtype == torch.bfloat16:
        bits: Decoded = decoded.view(torch.int16).cpu().numpy().view(np.uint16)
        return bits
    values: Decoded = decoded.cpu().numpy()
    return values


def _lanes(fmt: Format) -> int:
    return _power_of_two(fmt.block)


def _power_of_two(count: int) -> int:
    """The least power of two that is at least ``count``."""
    return 1 << (max(1, count) - 1).bit_length()
