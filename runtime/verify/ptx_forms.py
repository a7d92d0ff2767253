"""The PTX instructions that can be emulated: what each takes, gives and means.

Source: "Parallel Thread Execution ISA", version 8.7 (chapter "Instruction Set"; each function
below is its "Semantics" paragraph over arrays). A form is known by its whole opcode, modifiers
included, so that what is not listed is refused and not guessed.

Three things that the ISA leaves open, and how they are read here:

* ``neg`` and ``abs`` of a NaN are the canonical NaN: on sm_90 both are sums with zero. The NaN that
  ``cvt.f32.bf16`` widens keeps its bits: there it is a shift.
* ``add``, ``sub`` and ``mul`` without ``.rn`` are rounded each, but the assembler is free to fuse
  a product with a sum, and does. Write ``.rn`` where bits matter.
* Nothing is flushed: there are no forms with ``.ftz``.
"""

from __future__ import annotations

from collections.abc import Mapping

from .ptx_arithmetic import conversions, floats
from .ptx_integers import integers
from .ptx_types import Form

#: Every instruction, by its opcode with all modifiers.
FORMS: Mapping[str, Form] = integers() | floats() | conversions()
