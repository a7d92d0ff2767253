"""The mutation check: would the benches and proofs notice if the generated RTL were wrong?

Every mutant is simulated in the benches of its module, the nearest first. One that passes them
is put to the proofs; what remains is either proven equal to the original, or a survivor, which is
named: a hole in the checks.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...codegen.design import Design
from ...codegen.verilog import Bench, Module, benches_of, modules_of
from .claims import claims_of
from .formal import Claim, prove
from .mutations import Mutation, choose, mutations_of
from .simulate import bench_sources, write_rtl
from .specs import ports
from .tools import require, run

#: What can become of a mutant. ``broken``: it does not compile, and counts for nothing.
SIMULATED, REFUTED, EQUIVALENT = "caught by simulation", "caught by proof", "equivalent"
SURVIVED, BROKEN = "survived", "broken"

#: Seconds for compiling or running one bench of a mutant, and for a proof about one.
BENCH_SECONDS, PROOF_SECONDS = 60, 60
#: Benches that a mutant is simulated in before it is put to the proofs.
BENCHES = 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one mutant, and by which bench or proof."""

    mutation: Mutation
    fate: str
    by: str = ""


@dataclass(frozen=True, slots=True)
class MutationReport:
    """The mutants of one design."""

    design: str
    outcomes: tuple[Outcome, ...]

    def of(self, *fates: str) -> list[Outcome]:
        """The mutants with one of these fates."""
        return [outcome for outcome in self.outcomes if outcome.fate in fates]

    @property
    def tried(self) -> int:
        """How many mutants are different and compile."""
        return len(self.of(SIMULATED, REFUTED, SURVIVED))

    @property
    def passed(self) -> bool:
        """Whether there were mutants and none that is different survived."""
        return self.tried > 0 and not self.of(SURVIVED)

    def row(self) -> dict[str, Any]:
        """Counts as a table row."""
        counts = {
            fate: len(self.of(fate)) for fate in (SIMULATED, REFUTED, EQUIVALENT, SURVIVED, BROKEN)
        }
        return {"design": self.design, **counts}


def mutation_check(
    design: Design,
    count: int,
    parts: Sequence[str] | None = None,
    *,
    only: Sequence[str] | None = None,
) -> MutationReport:
    """Mutate a design's modules and see whether each mutant is noticed.

    Args:
        design: what to mutate.
        count: mutants in all, spread over modules and kinds.
        parts: the parts whose modules are mutated; None: all that have a bench or a claim.
        only: the parts whose benches run; None: all.

    Raises:
        BackendUnavailable: iverilog or yosys is not installed.
        RuntimeError: a bench fails without any mutation.
    """
    require("iverilog", "vvp", "yosys", "yosys-abc")
    benches = [b for b in benches_of(design) if only is None or b.module.part in only]
    modules = [m for m in modules_of(design) if parts is None or m.part in parts]
    modules = [m for m in modules if _watching(m, benches) or claims_of(design, m)]
    with tempfile.TemporaryDirectory(prefix="fmtc-mutants-") as scratch:
        directory = Path(scratch)
        write_rtl(design, directory)
        for bench in benches:
            _stop_at_first_error(directory / "tb" / f"{bench.top}.v")
        check = _Check(design, directory, tuple(benches))
        watched = {b.name: b for m in modules for b in _watching(m, benches)[:BENCHES]}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for bench, passed in pool.map(check.passes, watched.values()):
                if not passed:
                    raise RuntimeError(f"{bench.name} fails without any mutation")
            outcomes = tuple(pool.map(check.outcome, _chosen(modules, count)))
    return MutationReport(design.name, outcomes)


def _chosen(modules: Sequence[Module], count: int) -> list[tuple[Module, Mutation]]:
    """Mutations of all modules in turn, so that small ones have their share."""
    queues = []
    for module in modules:
        found = mutations_of(module.name, module.text())
        queues.append([(module, mutation) for mutation in choose(found, len(found))])
    chosen: list[tuple[Module, Mutation]] = []
    for turn in range(max(map(len, queues), default=0)):
        chosen += [queue[turn] for queue in queues if turn < len(queue)]
    return chosen[:count]


def _watching(module: Module, benches: Sequence[Bench]) -> list[Bench]:
    """The benches that a module is in, the nearest first."""
    found = [b for b in benches if module.name in {m.name for m in b.module.closure}]
    return sorted(found, key=lambda bench: len(bench.module.closure))


def _stop_at_first_error(path: Path) -> None:
    """A bench ends at once where something differs: without its line, it has not passed."""
    text = path.read_text(encoding="ascii")
    path.write_text(
        re.sub(r"errors = errors \+ 1;", "errors = errors + 1; $finish;", text), encoding="ascii"
    )


@dataclass(frozen=True)
class _Check:
    """Everything that mutants are tried with."""

    design: Design
    directory: Path
    benches: tuple[Bench, ...]

    def outcome(self, mutant: tuple[Module, Mutation]) -> Outcome:
        module, mutation = mutant
        text = mutation.of(module.text())
        with tempfile.TemporaryDirectory(prefix="fmtc-mutant-") as scratch:
            path = Path(scratch) / f"{module.name}.v"
            path.write_text(text, encoding="ascii")
            if run(
                ["iverilog", "-g2005", "-tnull", str(path), *self._others(module)], path.parent, 60
            ).code:
                return Outcome(mutation, BROKEN)
            for bench in _watching(module, self.benches)[:BENCHES]:
                if not self._passes(bench, path):
                    return Outcome(mutation, SIMULATED, bench.name)
        return self._proven(module, mutation, text)

    def passes(self, bench: Bench) -> tuple[Bench, bool]:
        with tempfile.TemporaryDirectory(prefix="fmtc-mutant-") as scratch:
            return bench, self._passes(bench, Path(scratch) / "none.v")

    def _others(self, module: Module) -> list[str]:
        return [
            str(self.directory / f"rtl/{m.name}.v") for m in module.closure if m.name != module.name
        ]

    def _passes(self, bench: Bench, mutant: Path) -> bool:
        """Whether a bench passes with a mutant in place of its module."""
        program = mutant.parent / f"{bench.top}.vvp"
        sources = [
            str(mutant if Path(source).name == mutant.name else self.directory / source)
            for source in bench_sources(bench)
        ]
        command = ["iverilog", "-g2005", "-s", bench.top, "-o", str(program), *sources]
        if run(command, self.directory, BENCH_SECONDS).code:
            return False
        done = run(["vvp", "-n", str(program)], self.directory / "tb", BENCH_SECONDS)
        verdict = f"PASS {bench.name} {bench.vectors} vectors"
        return done.code == 0 and verdict in done.log.split("\n")

    def _proven(self, module: Module, mutation: Mutation, text: str) -> Outcome:
        """What proofs say of a mutant that passes its benches: its own, and of what it is in."""
        notes = []
        for claim in self._claims(module):
            files = dict(claim.files) | {f"{module.name}.v": text}
            proof = prove(replace(claim, files=files), PROOF_SECONDS)
            if proof.status == "refuted":
                return Outcome(mutation, REFUTED, proof.statement)
            notes.append(f"{proof.status}: {proof.statement}")
        proof = prove(_same(module, text), PROOF_SECONDS)
        if proof.proven:
            return Outcome(mutation, EQUIVALENT, "proven equal to the original")
        notes.append(proof.counterexample() or proof.detail)
        return Outcome(mutation, SURVIVED, "; ".join(notes))

    def _claims(self, module: Module) -> Iterator[Claim]:
        """The claims about a module, and then those about modules that instantiate it."""
        users = [m for m in modules_of(self.design) if module.name in {u.name for u in m.uses}]
        for claimed in (module, *users):
            yield from claims_of(self.design, claimed)


def _same(module: Module, text: str) -> Claim:
    """That a mutant is the original module."""
    original = f"{module.name}_original"
    files: Mapping[str, str] = {f"{m.name}.v": m.text() for m in module.closure}
    renamed = module.text().replace(f"module {module.name} ", f"module {original} ")
    inputs, outputs = ports(module)
    return Claim(
        subject=module.name,
        statement="the mutant is equal to the original",
        inputs=inputs,
        outputs=outputs,
        files=dict(files) | {f"{module.name}.v": text, f"{original}.v": renamed},
        made=module.name,
        meant=original,
    )
