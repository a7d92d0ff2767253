"""Formats that between them use every policy of the language, and their C on every target."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from fmtc.codegen.c.targets import Target
from fmtc.compiler.format import Format
from fmtc.compiler.resolve import compile_text
from fmtc.formats import load
from fmtc.runtime.backend import BackendUnavailable
from fmtc.runtime.c_backend import CBackend
from fmtc.runtime.cpu import runnable_targets

NF4ISH = "-1, -0.75, -0.5, -0.4, -0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1"
FIVE = ", ".join(str(round((i - 16) / 15 + (i % 3) / 100, 3)) for i in range(32))
SIXTEEN = " ".join(f"grid g{i} = codebook 1 {{ -{i + 1}/16, {16 - i}/8 }}" for i in range(16))
ARMS = ", ".join(f"{i}: g{i}" for i in range(16))

#: What the shipped formats do not cover, one policy or more each. Names may be C keywords.
ADHOC = {
    "five_bits": f"""block 16  grid a = codebook 5 {{ {FIVE} }}  grid b = int 5  grid c = e2m2
        scale s1e5m5 {{ container 16  shift auto }}  pack high_first
        select 2 bits at field {{ 0: a, 1: b, 2: c }}""",
    "double": "block 32  grid e2m1  scale e8m0 { rule floor_log2 }  tie up",
    "main": "block 16  grid e2m1  scale e4m3 { tensor fp32 }  tie away  negative_zero drop",
    "restrict": "block 16  grid e2m1  scale ue5m3 { round up }  tie toward_zero",
    "inline": "block 8  grid e3m2  scale ue4m4 { round down  shift auto }  tie down",
    "e4m3_rows": "block 32  grid e4m3  scale e8m0 { rule floor_log2 }  nan propagate",
    "e5m2_rows": "block 64  grid e5m2  scale e5m2 { min 0.25 zero_block 1 }  nan propagate",
    "bytes": "block 1  grid i = int 8 { range full }  scale fp32",
    "seven": """block 7  grid c = codebook 3 { -1, -0.5, -0.25, 0, 0.125, 0.25, 0.5, 1 }
        scale ue4m4 { shift -3 }  pack high_first""",
    "huge": "block 4096  grid i = int 8  scale fp32  nan propagate",
    "mirrored": """block 24  grid c = codebook 4 { -1, -0.7, -0.5, -0.4, -0.3, -0.2, -0.1, 0,
        0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9 }  scale fp32 { rule argmax }""",
    "meta_word": """block 16  grid a = e2m1  grid b = int 4  grid c = e1m2  grid d = e3m0
        scale ue5m3 { container 12 }  select 2 bits at scale.meta { 0: a, 1: b, 2: c, 3: d }""",
    "sixteen": f"block 4  {SIXTEEN}  scale e8m0  select 4 bits at field {{ {ARMS} }}",
    "five_arms": """block 4  grid a = int 2  grid b = e1m0  grid c = codebook 2 { -2, -1, 0, 4 }
        grid d = codebook 2 { 0, 1, 2, 3 }  grid e = codebook 2 { -3, -1, 1, 3 }
        scale ue3m3 { container 6 }  select 3 bits at field { 0: a, 1: b, 2: c, 3: d, 4: e }""",
    "ten_bits": """block 8  grid a = e2m1  grid b = int 4  scale s1e4m3 {
        container 10  rule argmax }  select 2 bits at scale.meta { 0: a, 1: b }""",
    "three_bits": "block 5  grid e2m1  scale ue2m1 { container 3 }",
    "one_sided": "block 16  grid u = int 4 { range unsigned }  scale e4m3 { tensor fp32 }",
    "two_bits": "block 12  grid c = codebook 2 { 1, -1/3, 1/3, -1 }  scale e5m3",
    "quotient": f"""block 20  grid c = codebook 4 {{ {NF4ISH} }}  grid e2m1  scale fp32
        compare fp32_quotient  tie up  select 1 bit at scale.sign {{ 0: c, 1: e2m1 }}""",
    "quotient8": "block 16  grid e4m3  scale e4m3  compare fp32_quotient  nan propagate",
    "one_sided_fp32": "block 7  grid ue2m2  scale fp32 { rule absmax  zero_block 2 }",
    "reciprocal": "block 16  grid e2m1  scale s1e5m5 { rule argmax }  compare fp32_reciprocal",
    "seven_bits": "block 16  host hif7  grid hif7  scale s1e5m5 { rule argmax  shift auto }",
    "no_zero": """block 16  grid c = codebook 2 { -3, -1, 1, 3 }
        scale ue6m4 { container 32 }  tie up""",
    "tried": """block 16  grid a = e2m1  grid b = e1m2  scale e4m3 { target targets(6, 4) }
        select 1 bit at field { 0: a, 1: b }""",
    "saturating": "block 2  grid c = codebook 1 { -0.5, 0.75 }  scale ue7m3 { shift -64 }",
}

#: Zeros and offsets, and scales that only the pipeline can choose: they are given to the C.
GIVEN_ONLY = {
    "point": "block 16  grid u = int 4 { range unsigned }  scale fp32 { rule range }  zero point",
    "point_up": """block 12  grid i = int 3 { range full }  scale fp32 { rule range }  zero point
        tie up  pack high_first""",
    "point_quotient": """block 40  grid i = int 4 { range full }  scale fp32 { rule range }
        zero point  compare fp32_quotient  tie away""",
    "point_reciprocal": """block 32  grid u = int 8 { range unsigned }  scale fp32 { rule range }
        zero point  compare fp32_reciprocal""",
    "point_after": """block 24  grid i = int 3 { range offset }  scale fp32 { rule range }
        zero point { add after }  compare fp32_quotient  pack high_first""",
    "point_after_reciprocal": """block 40  grid u = int 8 { range unsigned }
        scale fp32 { rule range }  zero point { add after }  compare fp32_reciprocal""",
    "point_byte": "block 9  grid i = int 8 { range full }  scale fp32 { rule range }  zero point",
    "minimum": f"""block 16  grid c = codebook 4 {{ {NF4ISH} }}  scale fp32 {{ rule range }}
        zero minimum""",
    "minimum_up": """block 8  grid e2m1  scale fp32 { rule range }  zero minimum  tie up
        pack high_first""",
    "minimum_quotient": """block 32  grid u = int 2 { range unsigned }  scale fp32 { rule range }
        zero minimum { sign negated }  compare fp32_quotient  tie toward_zero""",
    "minimum_reciprocal": """block 32  grid u = int 5 { range unsigned }  scale fp32 { rule range }
        zero minimum { word fp16 }  compare fp32_reciprocal  tie even""",
    "offset": """block 32  grid i = int 4 { range offset }  scale fp32  offset 8.5
        compare fp32_reciprocal""",
    "offset_minimum": """block 20  grid u = int 5 { range unsigned }  scale fp32 { rule range }
        zero minimum  offset 0.5  compare fp32_quotient""",
    "wide_word": "block 24  grid e2m2  scale fp16 { codes wanted }",
}
SHIPPED = ("e2m3_ue4m4", "mxfp4", "nf4", "nvfp4", "po2_nf4", "sop_pair")
ALL = (*SHIPPED, *ADHOC)
EVERY = (*ALL, *GIVEN_ONLY)

#: Formats that between them use every part of a target's kernels: other targets than the fastest
#: are tested with these always, and with the rest in the slow tests.
BROAD = (
    "bytes",
    "e2m3_ue4m4",
    "e4m3_rows",
    "five_bits",
    "meta_word",
    "minimum_up",
    "mirrored",
    "mxfp4",
    "one_sided_fp32",
    "point",
    "point_after",
    "po2_nf4",
    "quotient",
    "reciprocal",
    "saturating",
    "seven",
    "seven_bits",
    "sop_pair",
    "tried",
)

#: Names of what C decodes to.
DTYPES = ("float32", "bfloat16", "float16")


@cache
def format_of(name: str) -> Format:
    if name in ADHOC or name in GIVEN_ONLY:
        return compile_text(f"format {name} {{ {(ADHOC | GIVEN_ONLY)[name]} }}")
    return load(name)


@cache
def targets() -> tuple[Target, ...]:
    """What this processor runs, the fastest first; skips the test where there is no compiler."""
    try:
        return runnable_targets()
    except BackendUnavailable as error:
        if "no C compiler" in str(error):
            pytest.skip(str(error))
        raise


def on_targets(names: Sequence[str]) -> pytest.MarkDecorator:
    """Parametrize by ``name`` and ``which`` targets, for ``backends_of``: in the end all by all."""
    some = [pytest.param(n, "all" if n in BROAD else "fastest", id=n) for n in names]
    rest = [
        pytest.param(n, "others", id=f"{n}-others", marks=pytest.mark.slow)
        for n in names
        if n not in BROAD
    ]
    return pytest.mark.parametrize(("name", "which"), [*some, *rest])


def backends_of(name: str, which: str = "all") -> list[CBackend]:
    """See ``backends_of_format``."""
    return backends_of_format(format_of(name), which)


def backend_of(name: str) -> CBackend:
    """The C of a format on the fastest target."""
    return backends_of(name, "fastest")[0]


def backends_of_format(fmt: Format, which: str = "all") -> list[CBackend]:
    """The C of a format on ``all`` targets, on the ``fastest`` alone, or on all the ``others``."""
    chosen = {"all": slice(None), "fastest": slice(1), "others": slice(1, None)}[which]
    found = [_backend(fmt, target.name) for target in targets()[chosen]]
    if not found:
        pytest.skip("this processor runs one target alone")
    return found


@cache
def _backend(fmt: Format, target: str) -> CBackend:
    return CBackend(fmt, target=target)


def same_bits(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether floats (bfloat16: their bits) are the same to the bit, but for what a NaN holds."""
    if found.dtype != wanted.dtype or found.shape != wanted.shape:
        return False
    return bool(np.array_equal(_with_one_nan(found), _with_one_nan(wanted)))


def _with_one_nan(x: np.ndarray) -> np.ndarray:
    if x.dtype == np.uint16:
        return np.where(x & 0x7FFF > 0x7F80, np.uint16(0x7FC0), x)
    bits = x.view(f"u{x.itemsize}")
    return np.where(np.isnan(x), np.array(np.nan, x.dtype).view(bits.dtype), bits)
