"""Energy by switching activity: how often every net changes, times what a change costs.

A change of a net takes half C V^2 for the inputs that hang on it, and what its driver takes inside
(the library's internal power, at the slew of an inverter that drives four of its kind). Wires and
clocks are not counted. Without delays no hazard counts; with one unit of time a gate, all do,
short ones too: the truth lies between.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .liberty import Library
from .netlist import Bits, Netlist, Simulation

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Energy:
    """What a design takes on a run of vectors.

    Attributes:
        dynamic: joules a vector, gates without delay.
        glitching: joules a vector, every gate one unit of time.
        leakage: watts.
        vectors: how many there were.
    """

    dynamic: float
    glitching: float
    leakage: float
    vectors: int


def energy(netlist: Netlist, library: Library, inputs: Mapping[str, Bits]) -> Energy:
    """The energy of a combinational netlist from vector to vector.

    Args:
        netlist: of the library's cells.
        library: the library.
        inputs: port -> uint8 [vectors, bits], at least two vectors.

    Raises:
        NotCombinational: the netlist remembers something.
        ValueError: ports or shapes are not the netlist's, or there is nothing to change.
    """
    vectors = len(next(iter(inputs.values())))
    if vectors < 2:
        raise ValueError("energy is of changes: it takes two vectors at least")
    simulation = Simulation(netlist, library)
    each = change_energies(netlist, library)
    return Energy(
        dynamic=float(simulation.toggles(inputs) @ each) / (vectors - 1),
        glitching=float(simulation.glitching_toggles(inputs) @ each) / (vectors - 1),
        leakage=sum(library.cells[cell].leakage * n for cell, n in netlist.cells.items()),
        vectors=vectors,
    )


def change_energies(netlist: Netlist, library: Library) -> F64:
    """Joules of one change of every net: [nets]."""
    loads = netlist.loads(library)
    each = loads * library.voltage**2 / 2
    driven: dict[tuple[str, str], list[int]] = defaultdict(list)
    for instance in netlist.instances:
        for pin in library.cells[instance.cell].functions:
            if pin in instance.pins:
                driven[instance.cell, pin].append(instance.pins[pin])
    for (cell, pin), nets in driven.items():
        each[nets] += library.cells[cell].energy(pin, loads[nets], library.slew)
    return each
