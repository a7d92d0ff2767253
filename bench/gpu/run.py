"""One run, from the checks to the last product: the most important first, while time lasts."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from fmtc.compiler.kernel import dense_format
from fmtc.formats import load

from ..measure import reason
from . import coding, products, roofs, worker
from .clock import Clock
from .peers import PEERS
from .plan import FIRST, Budget, Plan, Shape
from .results import BASE, OURS, Report, Result

#: Packages whose versions stand beside the figures.
PACKAGES = ("fmtc", "triton", "bitsandbytes", "gemlite", "humming-kernels")

#: The shares of the budget after which a part is not begun, so that the next have time.
CHECKS, VECTORS, FEW, MANY, OTHERS, REST = 0.40, 0.55, 0.66, 0.74, 0.76, 0.97
#: A peer's process is given so much of the budget at most.
PEER_SHARE = 0.12


class CheckFailed(Exception):
    """A kernel is wrong, or could not be checked; the message says which."""


@dataclass
class Bench:
    """A run under way.

    Attributes:
        plan: what is measured.
        clock: times it.
        budget: how long that may take.
        say: where progress goes, a line a time.
        report: what was found.
    """

    plan: Plan
    clock: Clock
    budget: Budget
    say: Callable[[str], None]
    report: Report

    def run(self) -> Report:
        """Everything that there is time for.

        Raises:
            CheckFailed: a kernel is not right, so that nothing was timed.
        """
        self.check()
        parts = (
            *(self.roofs, self.coding, self.dense, self.vectors),
            *(self.few, self.many, self.peers, self.rest),
        )
        for part in parts:
            self.say(f"[{self.budget.spent:.0f} s] {part.__name__}")
            try:
                part()
            except Exception as error:  # noqa: BLE001 - the other parts are still worth having
                self.say(f"  failed: {reason(error)}")
                self.report.dropped.append(f"{part.__name__} failed: {reason(error)}")
        self.report.dropped += self.budget.dropped
        return self.report

    def check(self) -> None:
        """All formats at once, each in a process of its own; then their products are compiled."""
        self.say("[0 s] check every kernel against the reference")
        wrong: list[str] = []
        with ThreadPoolExecutor(max(1, self.plan.processes)) as pool:
            found = pool.map(self._check, self.plan.checked)
            for name, lines in zip(self.plan.checked, found, strict=True):
                checked = [one for one in lines if "checked" in one]
                mistakes = [what for one in checked for what in one["wrong"]]
                if not checked:
                    failed = [one["failed"] for one in lines if "failed" in one]
                    mistakes = [f"{name}: {(failed or ['nothing was checked'])[0]}"]
                wrong += mistakes
                self.report.checked[name] = sum(one["count"] for one in checked)
                self.say(f"  {name}: {self.report.checked[name]} comparisons")
                for mistake in mistakes:
                    self.say(f"    wrong: {mistake}")
        if wrong:
            raise CheckFailed("\n".join(wrong))

    def _check(self, name: str) -> list[dict[str, Any]]:
        apart = self.plan.processes > 0
        seconds = CHECKS * self.budget.seconds - self.budget.spent
        wishes = {"name": name, "warm": self._to_compile(name) if apart else []}
        return list(worker.run("check", self.plan, seconds, apart, **wishes))

    def _to_compile(self, name: str) -> list[tuple[Shape, int]]:
        """Products whose kernels are worth compiling before anything is timed."""
        plan = self.plan
        if name not in plan.multiplied or load(name).sides:
            return []
        if name not in plan.multiplied[:FIRST]:
            return [(plan.shapes[-1], 1)]
        return [(shape, m) for shape in reversed(plan.ends) for m in (*plan.few, *plan.many)]

    def roofs(self) -> None:
        """Memory."""
        found = roofs.measure(self.plan, self.clock)
        self.report.roofs = found
        self.say(f"  read {found.read:,.0f} GB/s, copy {found.copy:,.0f} GB/s")

    def coding(self) -> None:
        """Encode and decode."""
        for name in self.plan.coded:
            if self.budget.allows(f"encode and decode of {name}", VECTORS):
                self._keep(
                    coding.measure(name, self.plan, self.clock, self.report.roofs),
                    Result("encode", f"{OURS} {name}", self.plan.coded_shape),
                )

    def dense(self) -> None:
        """CuBLAS: all other products are compared with it."""
        for dtype in products.DENSE:
            for shape in reversed(self.plan.shapes):
                many = self.plan.many if shape in self.plan.ends else ()
                rows = (*self.plan.few, *many)
                who = products.DENSE[dtype]
                if dtype == "bfloat16" or self.budget.allows(f"{who} {_size(shape)}", FEW):
                    self._keep(
                        products.dense(shape, rows, dtype, self.plan, self.clock),
                        Result("product", who, shape),
                    )

    def vectors(self) -> None:
        """One row: all formats, all shapes, the largest first."""
        for shape in reversed(self.plan.shapes):
            for name in self.plan.multiplied:
                self._products(name, shape, (1,), VECTORS, warm=True)

    def few(self) -> None:
        """Up to 64 rows: the first formats on the largest and the smallest shape."""
        for shape in reversed(self.plan.ends):
            for name in self.plan.multiplied[:FIRST]:
                self._products(name, shape, self.plan.few[1:], FEW)

    def many(self) -> None:
        """Hundreds of rows, likewise."""
        for shape in reversed(self.plan.ends):
            for name in self.plan.multiplied[:FIRST]:
                self._products(name, shape, self.plan.many, MANY)

    def peers(self) -> None:
        """The other libraries, each in a process of its own."""
        if not self.plan.peers:
            return
        shapes, rows = list(reversed(self.plan.ends)), [*self.plan.few, *self.plan.many[:1]]
        for peer in PEERS:
            missing = _missing(peer.package)
            if missing is not None:
                self._add(Result("product", peer.name, shapes[0], skipped=missing))
                continue
            last = OTHERS + PEER_SHARE * PEERS.index(peer) / len(PEERS)
            if not self.budget.allows(f"{peer.name}", last):
                continue
            seconds = min(PEER_SHARE * self.budget.seconds, 0.9 * self.budget.left)
            apart = self.plan.processes > 0
            wishes = {"name": peer.name, "shapes": shapes, "rows": rows}
            for found in worker.run("peer", self.plan, seconds, apart, **wishes):
                if "failed" in found:
                    who, why = peer.name, found["failed"]
                    self._add(Result("product", who, shapes[0], skipped=f"stopped: {why}"))
                else:
                    self._add(Result(**{**found, "shape": tuple(found["shape"])}))

    def rest(self) -> None:
        """What is left: other shapes and formats, exact arithmetic, and unpacking first."""
        plan = self.plan
        largest = plan.shapes[-1]
        for name in plan.multiplied[:2]:
            self._products(name, largest, (1, 4), REST, arithmetic="single")
        for name in plan.multiplied[:1]:
            for m in plan.many:
                what = f"{OURS} {name}, {products.UNPACKED} M={m}"
                if self.budget.allows(what, REST):
                    weight = products.Weight(name, largest, plan, self.clock)
                    self._add(weight.unpacked(m))
        for shape in plan.shapes[1:-1]:
            for name in plan.multiplied[:FIRST]:
                self._products(name, shape, plan.few[1:], REST)
        for name in plan.multiplied[FIRST:]:
            for shape in reversed(plan.ends):
                self._products(name, shape, plan.few[1:], REST)

    def _products(
        self,
        name: str,
        shape: Shape,
        rows: Iterable[int],
        until: float,
        arithmetic: str = "auto",
        warm: bool = False,
    ) -> None:
        """One format's products with weights of one shape, if there is time."""
        rows = tuple(rows)
        what = f"{OURS} {name} {_size(shape)} M={','.join(map(str, rows))} {arithmetic}"
        if not rows or not self.budget.allows(what, until):
            return
        who = f"{OURS} {name}"
        if load(name).sides:
            why = "its rows cannot repeat: it has sides"
            self._add(Result("product", who, shape, rows[0], skipped=why))
            return
        try:
            weight = products.Weight(name, shape, self.plan, self.clock)
        except Exception as error:  # noqa: BLE001 - the others go on
            self._add(Result("product", who, shape, rows[0], "cold", skipped=reason(error)))
            return
        for m in rows:
            failed = Result("product", who, shape, m, "cold")
            base = self.report.base(failed)
            found = weight.measure(m, self.report.roofs, base, arithmetic, warm)
            self._keep(found, failed)

    def _keep(self, found: Iterator[Result], failed: Result) -> None:
        """Add results as they come; where that ends badly, say so in place of ``failed``."""
        from dataclasses import replace

        try:
            for result in found:
                self._add(result)
        except Exception as error:  # noqa: BLE001 - the others go on
            self._add(replace(failed, skipped=reason(error)))

    def _add(self, result: Result) -> None:
        self.report.results.append(result)
        self.say(f"  {line(result, self.report)}")


def line(result: Result, report: Report) -> str:
    """A result in one line, for who waits."""
    m = f" M={result.m}" if result.m else ""
    head = f"{result.part} {result.contender} {_size(result.shape)}{m} {result.how}".strip()
    if result.seconds is None:
        return f"{head}: skipped: {result.skipped}"
    words = [f"{result.seconds * 1e6:.2f} us", f"{result.gigabytes:,.0f} GB/s"]
    if report.roofs is not None:
        coded = result.part != "product"
        share = result.share(report.roofs.copy if coded else report.roofs.read)
        words.append(f"{share:.0%} of the {'copy' if coded else 'read'} roof")
    if result.part == "product" and result.contender != BASE:
        speedup = report.speedup(result)
        words.append("" if speedup is None else f"{speedup:.2f}x {BASE}")
    words += [result.note, result.hint]
    return f"{head}: {', '.join(filter(None, words))}"


def machine(plan: Plan) -> dict[str, str]:
    """What figures depend on, by name."""
    found = {"device": "none: a dry run", "python": platform.python_version()}
    found["torch"] = torch.__version__
    if plan.device != "cpu":
        facts: Any = torch.cuda.get_device_properties(0)
        found["device"] = (
            f"{facts.name}, {facts.multi_processor_count} multiprocessors, "
            f"{facts.total_memory / 1e9:.0f} GB, {facts.L2_cache_size / 1e6:.0f} MB of L2"
        )
        found["CUDA"] = str(torch.version.cuda)
        found["driver"] = _driver()
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    from fmtc._version import __version__

    return {**found, "fmtc": __version__}


def start(plan: Plan, clock: Clock, say: Callable[[str], None]) -> Bench:
    """A run that has not begun; the first CUDA device is the one that counts."""
    if plan.device != "cpu":
        torch.cuda.set_device(0)
        os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    report = Report(datetime.now(UTC).date().isoformat(), machine(plan))
    return Bench(plan, clock, Budget(plan.budget), say, report)


def plain(names: Iterable[str]) -> tuple[str, ...]:
    """Those of some formats whose kernels do all of it."""
    return tuple(name for name in names if dense_format(load(name)).is_plain)


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.split("\n", maxsplit=1)[0].strip()


def _missing(package: str) -> str | None:
    """Why a library is not there; None if it is."""
    try:
        version(package)
    except PackageNotFoundError:
        return f"not installed: pip install {package}"
    return None


def _size(shape: Shape) -> str:
    return f"{shape[0]}x{shape[1]}"
