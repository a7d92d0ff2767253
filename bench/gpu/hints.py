"""Why a kernel falls short, as far as its machine code says: instructions, and who takes them.

A multiprocessor issues 128 lanes a clock, 64 of them integer (or binary64) ones, 32 to memory
and shuffles and, on sm_90, 64 conversions of pairs but 16 of others. The lanes that an element
needs of each, over what there is, is the time it cannot be done under; the largest names the
bound. What is waited for does not show: a kernel that no bound explains waits for memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fmtc.runtime.sass import Listing, Loop, SassError, disassemble

from .clock import Call
from .results import Roofs

#: Lanes a clock of a multiprocessor, by pipe; "all" is what is issued.
LANES = {"all": 128, "int": 64, "double": 64, "memory": 32, "shuffle": 32, "convert": 64}

#: Clocks a second, where the driver does not say.
CLOCK = 1.98e9

#: Bytes of an access, by modifier of a load or store.
_WIDTHS = {"128": 16, "64": 8, "U8": 1, "S8": 1, "U16": 2, "S16": 2}


#: What a configuration may call the rows of activations of a tile.
_TILE_ROWS = ("block_m", "tile_m", "bm", "m")


@contextmanager
def launched() -> Iterator[list[Any]]:
    """The compiled kernels that are launched meanwhile, in order; none by the interpreter."""
    from triton.runtime.jit import JITFunction

    found: list[Any] = []
    original = JITFunction.run

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        compiled = original(self, *args, **kwargs)
        found.append(compiled)
        return compiled

    JITFunction.run = run
    try:
        yield found
    finally:
        JITFunction.run = original


def hint_of_coding(call: Call, opcode: str, size: int) -> str:
    """What encode or decode is bound by: a thread's elements are those that it loads or stores.

    Args:
        call: launches it.
        opcode: ``LDG`` if the elements are loaded, ``STG`` if they are stored.
        size: bytes of one.
    """
    return _hint(call, lambda code: moved(code, opcode) / size, None, None)


def hint_of_product(
    call: Call,
    m: int,
    octets_per_weight: float,
    roofs: Roofs | None,
    sms: int,
    clock: float,
    config: Mapping[str, int | str] | None = None,
) -> str:
    """What a product is bound by, and how much of the read roof that leaves.

    Args:
        call: launches it.
        m: rows of activations.
        octets_per_weight: packed bytes over weights.
        roofs: of this run.
        sms: multiprocessors of the device; 0 if they are not known.
        clock: of them, in Hz; 0 if it is not known.
        config: what the kernel was launched with.
    """
    budget = None
    if roofs is not None and roofs.read and sms:
        each_clock = roofs.read * 1e9 / octets_per_weight / sms / (clock or CLOCK)
        budget = 128 / each_clock
    return _hint(call, lambda code: weights(code, m, config or {}), budget, "weight")


def moved(code: Loop | Listing, opcode: str) -> int:
    """Bytes that a thread loads or stores by the instructions of a name."""
    total = 0
    for instruction in code.instructions:
        if instruction.opcode == opcode:
            widths = [_WIDTHS[m] for m in instruction.modifiers if m in _WIDTHS]
            total += widths[0] if widths else 4
    return total


def weights(code: Loop | Listing, m: int, config: Mapping[str, int | str]) -> float:
    """Weights of a thread in one pass: its multiplications, by how often each weight is one's.

    That is ``m``, or for a tensor core the rows of its tile, of which some may be padding.
    """
    if not code.count_of("HMMA", "HGMMA"):
        return products(code) / m
    named = [config[name] for name in _TILE_ROWS if name in config]
    rows = int(named[0]) if named else max(16, min(128, 1 << (m - 1).bit_length()))
    return products(code) / rows


def products(code: Loop | Listing) -> float:
    """Multiplications of a thread: by pairs, single ones, or a share of a tensor core's.

    HMMA.16816 makes 2048 of a warp, HMMA.1688 half of them; HGMMA.64xNx16 makes 64 * N * 16 of
    four warps.
    """
    pairs, single = 2 * code.count_of("HFMA2"), code.count_of("FFMA")
    tensor = 0.0
    for instruction in code.instructions:
        if instruction.opcode == "HMMA":
            tensor += 32 if "1688" in instruction.modifiers else 64
        elif instruction.opcode == "HGMMA":
            sizes = [m for m in instruction.modifiers if m.count("x") == 2]
            if sizes:
                a, b, c = (int(part) for part in sizes[0].split("x"))
                tensor += a * b * c / 128
    return tensor if tensor else float(max(pairs, single))


def describe(code: Loop | Listing, elements: float, budget: float | None, unit: str | None) -> str:
    """Instructions for each element by pipe, the bound, and the budget if there is one.

    Args:
        code: of one pass.
        elements: that a thread does in it; 0 if that is not known.
        budget: instructions an element for the full roof.
        unit: what an element is called.
    """
    pipes = code.by_pipe()
    lanes = {**pipes, "all": code.count}
    clocks = {pipe: lanes[pipe] / LANES[pipe] for pipe in LANES if pipe in lanes}
    bound = max(clocks, key=lambda pipe: clocks[pipe])
    named = "issue" if bound == "all" else bound
    share = ", ".join(
        f"{pipe} {count / elements:.2f}" if elements else f"{pipe} {count}"
        for pipe, count in list(pipes.items())[:4]
    )
    if not elements:
        return f"{code.count} instructions a pass ({share}); bound by {named}"
    each = code.count / elements
    text = f"{each:.2f} instructions a {unit or 'value'} ({share}); bound by {named}"
    if budget is None:
        return text
    ceiling = min(1.0, budget / (clocks[bound] * LANES["all"] / elements))
    return f"{text}: {ceiling:.0%} of the roof (budget {budget:.2f})"


def _hint(call: Call, elements: Any, budget: float | None, unit: str | None) -> str:
    with launched() as kernels:
        call()
    compiled = [k for k in kernels if getattr(k, "asm", None) and "cubin" in k.asm]
    if not compiled:
        return "no machine code to read"
    try:
        codes = [_busiest(disassemble(k.asm["cubin"])) for k in compiled]
    except SassError as error:
        return f"machine code not read: {error}"
    code, of = max(zip(codes, compiled, strict=True), key=lambda pair: pair[0].count)
    spills = getattr(of, "n_spills", 0) or 0
    registers = getattr(of, "n_regs", None)
    resources = f"; {registers} registers" if registers else ""
    resources += f", {spills} spills" if spills else ""
    more = f"; {len(compiled)} kernels" if len(compiled) > 1 else ""
    return describe(code, elements(code), budget, unit) + resources + more


def _busiest(listing: Listing) -> Loop | Listing:
    """The longest of the inner loops; all of it where there is none."""
    return max(listing.inner, key=lambda loop: loop.count, default=listing)
