"""``fmtc verify``: any format, tried exhaustively and at random across all back ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ...compiler.format import Format
from ..backend import Backend, BackendUnavailable, ReferenceBackend
from ..choose import BACKENDS, backend_for
from . import checks, properties

Progress = Callable[[str], None]
#: How many cases were tried; with a note where something stays open.
Tried = int | tuple[int, str]
Check = tuple[str, str, Callable[[], Tried]]


#: The GPUs that kernels are compiled for without one: A100, H100, B200.
ARCHITECTURES = (80, 90, 100)

#: Seconds for the comparison of two circuits, and the parts whose comparison takes far longer.
PROOF_SECONDS = 60
LONG_PROOFS = ("output_scale",)


@dataclass(frozen=True, slots=True)
class Result:
    """What one check found: ``passed``, ``failed`` or ``skipped``, with the reason."""

    check: str
    backend: str
    status: str
    cases: int
    seconds: float
    detail: str = ""

    def row(self) -> dict[str, Any]:
        """The result as a table row; a failure's detail is cut to its first line."""
        return {
            "check": self.check,
            "backend": self.backend,
            "status": self.status,
            "cases": self.cases,
            "seconds": round(self.seconds, 2),
            "note": self.detail.splitlines()[0][:90] if self.detail else "",
        }


def verify_format(
    fmt: Format, *, cases: int = 100_000, quick: bool = False, progress: Progress | None = None
) -> list[Result]:
    """Run every check on a format.

    Args:
        fmt: any compiled format.
        cases: random values for each back end.
        quick: leave out RTL simulation and offline GPU compilation.
        progress: called with the name of each check before it runs.
    """
    results = []
    for name, backend, run in _plan(fmt, cases, quick):
        if progress:
            progress(f"{name} ({backend})")
        results.append(_run(name, backend, run))
    return results


def _run(name: str, backend: str, run: Callable[[], Tried]) -> Result:
    start = time.perf_counter()
    try:
        tried = run()
    except BackendUnavailable as reason:
        return Result(name, backend, "skipped", 0, time.perf_counter() - start, str(reason))
    except checks.Mismatch as difference:
        seconds = time.perf_counter() - start
        return Result(name, backend, "failed", 0, seconds, str(difference))
    seconds = time.perf_counter() - start
    done, note = tried if isinstance(tried, tuple) else (tried, "")
    if done == 0:
        return Result(name, backend, "skipped", 0, seconds, "says nothing about this format")
    return Result(name, backend, "passed", done, seconds, note)


def _plan(fmt: Format, cases: int, quick: bool) -> Iterator[Check]:
    reference = ReferenceBackend(fmt)
    for name, fixed in properties.FIXED.items():
        yield name, "dsl" if name.startswith("text") else "reference", _fixed(fmt, reference, fixed)
    for name, prove in properties.PROPERTIES.items():
        yield f"property: {name}", "reference", _property(fmt, reference, prove)
    for name in BACKENDS:
        if name != ReferenceBackend.name:
            yield from _backend_plan(fmt, name, _trials(name, cases))
    if not quick:
        yield "products, floats and integers", "c", lambda: _products(fmt)
        yield "RTL lints and simulates", "verilog", lambda: _rtl(fmt)
        yield "RTL equals its specification", "verilog", lambda: _proofs(fmt)
        yield "inline assembly, every code x place", "triton", lambda: _snippets(fmt)
        yield "products, interpreted", "triton", lambda: _gpu_products(fmt)
        yield "kernels compile without spills", "triton", lambda: _offline(fmt)


def _fixed(
    fmt: Format, backend: Backend, run: Callable[[Format, Backend], int]
) -> Callable[[], int]:
    return lambda: run(fmt, backend)


def _property(fmt: Format, backend: Backend, prove: properties.Property) -> Callable[[], int]:
    # Each tensor of a large record takes long: fewer of them.
    large = fmt.record is not None and fmt.record.elements > properties.EXAMPLES
    examples = properties.EXAMPLES // 10 if large else properties.EXAMPLES
    return lambda: properties.prove(fmt, backend, prove, examples)


def _trials(name: str, cases: int) -> int:
    # The Triton interpreter is a hundred times slower than a GPU or C.
    return min(cases, 20_000) if name == "triton" else cases


def _backend_plan(fmt: Format, name: str, cases: int) -> Iterator[Check]:
    def backend() -> Backend:
        return backend_for(fmt, name)

    yield "decode, every code x word", name, lambda: checks.decode_agrees(fmt, backend())
    yield "encode, every tie +- 1 ulp", name, lambda: checks.ties_agree(fmt, backend())
    yield "encode and decode, random", name, lambda: checks.random_agrees(fmt, backend(), cases)


def _products(fmt: Format) -> int:
    from .products import products_agree

    return products_agree(fmt, backend_for(fmt, "c"))


def _snippets(fmt: Format) -> int:
    from ..triton_backend import require

    require()
    from .gpu import snippets_agree

    return snippets_agree(fmt)


def _gpu_products(fmt: Format) -> int:
    from ..triton_backend import require

    require()
    from .gpu import products_agree

    return products_agree(fmt)


def _rtl(fmt: Format) -> int:
    from ...codegen import NotExpressible, emit
    from ..rtl.simulate import lint, simulate

    try:
        emit(fmt, "verilog")
    except NotExpressible as reason:
        raise BackendUnavailable(str(reason)) from reason
    for result in lint(fmt).results:
        if not result.clean:
            raise checks.Mismatch(f"{result.tool} on {result.module}:\n{result.log}")
    benches = simulate(fmt).benches
    for bench in benches:
        if not bench.passed:
            raise checks.Mismatch(f"{bench.name}:\n{bench.log}")
    return sum(bench.vectors for bench in benches)


def _proofs(fmt: Format) -> Tried:
    from ...codegen import NotExpressible
    from ..rtl.claims import prove_rtl
    from ..rtl.formal import REFUTED, UNFINISHED

    try:
        proofs = prove_rtl(fmt, limit=PROOF_SECONDS, skip=LONG_PROOFS)
    except NotExpressible as reason:
        raise BackendUnavailable(str(reason)) from reason
    for proof in proofs:
        if proof.status == REFUTED:
            raise checks.Mismatch(f"{proof.subject}: {proof.counterexample()}")
    open_ones = [proof.subject for proof in proofs if proof.status == UNFINISHED]
    note = f"not decided within {PROOF_SECONDS} s: {', '.join(open_ones)}" if open_ones else ""
    return sum(proof.proven for proof in proofs), note


def _offline(fmt: Format) -> int:
    from ..triton_offline import OfflineCompileError, compile_offline

    try:
        reports = [report for arch in ARCHITECTURES for report in compile_offline(fmt, arch)]
    except OfflineCompileError as error:
        raise checks.Mismatch(str(error)) from error
    except ValueError as reason:  # a format that Triton cannot express
        raise BackendUnavailable(str(reason)) from reason
    for report in reports:
        if report.spills:
            raise checks.Mismatch(
                f"{report.kernel} on sm_{report.arch} leaves its registers: "
                f"{report.stack} bytes of stack, {report.local} of local memory"
            )
    return len(reports)
