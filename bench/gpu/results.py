"""What is measured: one figure, and the memory that it is held against."""

from __future__ import annotations

from dataclasses import dataclass, field

from .plan import Shape

#: How our own contenders' names begin, and what the others are compared with.
OURS, BASE = "fmtc", "cuBLAS bf16"


@dataclass(frozen=True, slots=True)
class Result:
    """One figure, or why there is none.

    Attributes:
        part: ``encode``, ``decode`` or ``product``.
        contender: who; ours is ``fmtc`` and the format's name.
        shape: [rows, columns] of the weight.
        m: rows of activations.
        how: the dtype of encode and decode; ``cold`` or ``warm`` of a product.
        seconds: a call takes; None if it was skipped.
        octets: that a call must move: packed bytes of a product, both sides of encode and decode.
        note: the configuration that was taken, and what was odd.
        hint: of a result that falls short: what the machine code says of it.
        skipped: why there is no figure.
        tried: every configuration that was timed, the best among them -> its seconds.
    """

    part: str
    contender: str
    shape: Shape
    m: int = 0
    how: str = ""
    seconds: float | None = None
    octets: int = 0
    note: str = ""
    hint: str = ""
    skipped: str | None = None
    tried: dict[str, float] = field(default_factory=dict)

    @property
    def gigabytes(self) -> float | None:
        """GB/s, of 10^9 bytes."""
        return None if self.seconds is None else self.octets / self.seconds * 1e-9

    @property
    def teraflops(self) -> float | None:
        """10^12 operations a second; a multiplication and an addition are two."""
        if self.seconds is None:
            return None
        return 2 * self.m * self.shape[0] * self.shape[1] / self.seconds * 1e-12

    def share(self, roof: float) -> float | None:
        """The part of a roof, in GB/s, that it reaches."""
        rate = self.gigabytes
        return None if rate is None or not roof else rate / roof


@dataclass(frozen=True, slots=True)
class Roofs:
    """What memory gives, in GB/s: a stream that is read, and a copy counted both ways."""

    read: float
    copy: float


@dataclass
class Report:
    """One run.

    Attributes:
        date: of the run.
        machine: what figures depend on, in words, by name.
        roofs: None before they are measured.
        checked: what was held against the reference: format -> kernels and cases.
        results: every figure.
        dropped: what time was too short for.
    """

    date: str
    machine: dict[str, str]
    roofs: Roofs | None = None
    checked: dict[str, int] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def base(self, result: Result) -> Result | None:
        """What a product is compared with: cuBLAS on the same shape, cold."""
        for other in self.results:
            if other.contender == BASE and (other.shape, other.m) == (result.shape, result.m):
                return other
        return None

    def speedup(self, result: Result) -> float | None:
        """How many times as fast as cuBLAS in bfloat16 a product is."""
        base = self.base(result)
        if base is None or base.seconds is None or result.seconds is None:
            return None
        return base.seconds / result.seconds
