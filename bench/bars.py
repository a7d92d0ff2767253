"""The bars: what a kernel must reach, and what one run says of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .library import LEAST, Share
from .measure import OURS, Result
from .overhead import Overhead
from .plan import FOUR_BITS, SHAPES, WIDER
from .roofs import FILL, PASS

#: Of the fill roof, by formats of four bits; of the roof of their traffic, by wider ones.
FOUR_BIT_SHARE, WIDER_SHARE = 0.90, 0.80
#: Melem/s of encoding on one thread.
ENCODE = {"mxfp4": 1200, "nf4": 1000, "nvfp4": 800, "po2_nf4": 350, "four_six": 350}
#: Task -> contender -> fmtc's speed over it, for a 4096x14336 matrix at 4.5 bits.
MULTIPLY = {
    "multiply": {"torch.mv fp32": 2.0, "ggml NVFP4 (int8)": 1.0},
    "multiply int8": {"ggml IQ4_NL (int8)": 1.1},
}
#: Microseconds that a call may add, and seconds that a build may take.
CALL_US, BUILD_S = 100.0, 2.0


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar.

    Attributes:
        what: what is measured.
        bar: what it must reach, in words.
        measured: what it reached, in words; None if this run did not measure it.
        met: whether that is enough; None likewise.
    """

    what: str
    bar: str
    measured: str | None
    met: bool | None


def judge(
    results: Sequence[Result], overheads: Sequence[Overhead], shares: Sequence[Share]
) -> list[Bar]:
    """Every bar on one thread."""
    found = {(r.task, r.subject, r.contender): r for r in results if r.threads == 1}
    return [*_speeds(found), *_costs(overheads), *_least(shares)]


def _speeds(found: dict[tuple[str, str, str], Result]) -> Iterator[Bar]:
    for roof, least, formats, words in (
        (FILL, FOUR_BIT_SHARE, FOUR_BITS, "the non-temporal fill roof"),
        (PASS, WIDER_SHARE, WIDER, "the roof of the same traffic"),
    ):
        for name in formats:
            ratio = _ratio(found.get(("decode", name, roof)))
            yield _bar(f"decode {name}", f"{least:.0%} of {words}", ratio, least, "{:.0%}")
    for name, speed in ENCODE.items():
        ours = found.get(("encode", name, OURS))
        reached = None if ours is None else ours.melem_per_s
        yield _bar(f"encode {name}", f"{speed:,} Melem/s", reached, speed, "{:,.0f}")
    rows, columns = SHAPES[0]
    for task, peers in MULTIPLY.items():
        for peer, least in peers.items():
            ratio = _ratio(found.get((task, f"nvfp4 {rows}x{columns}", peer)))
            what = f"{task} nvfp4 {rows}x{columns}"
            yield _bar(what, f"{least:.1f}x {peer}", ratio, least, "{:.2f}x")


def _costs(overheads: Sequence[Overhead]) -> Iterator[Bar]:
    calls = [o for o in overheads if o.unit == "us"]
    builds = [o for o in overheads if o.unit == "s"]
    if calls:
        worst = max(calls, key=lambda o: o.beside)
        text = f"{worst.beside:.0f} us ({worst.what})"
        yield Bar("dearest call", f"{CALL_US:.0f} us", text, worst.beside <= CALL_US)
    for build in builds:
        yield Bar(build.what, f"{BUILD_S:.0f} s", f"{build.took:.2f} s", build.took <= BUILD_S)


def _least(shares: Sequence[Share]) -> Iterator[Bar]:
    able = [(s.decode_share, s.format) for s in shares if s.decode_share is not None]
    if able:
        share, name = min(able)
        what = f"decode of every format of the library ({len(able)})"
        text = f"{share:.0%} ({name})"
        yield Bar(what, f"{LEAST:.0%} of its roof", text, share >= LEAST)


def _ratio(result: Result | None) -> float | None:
    return None if result is None else result.fmtc_over_this


def _bar(what: str, bar: str, reached: float | None, least: float, style: str) -> Bar:
    if reached is None:
        return Bar(what, bar, None, None)
    return Bar(what, bar, style.format(reached), reached >= least)
