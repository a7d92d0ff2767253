"""Netlists in NumPy: values, changes and energies, against the same done gate by gate in Python."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import cells
import numpy as np
import pytest
from fmtc.runtime.rtl.energy import change_energies, energy
from fmtc.runtime.rtl.liberty import Library, load_library
from fmtc.runtime.rtl.netlist import (
    Bits,
    Instance,
    Netlist,
    NotCombinational,
    Simulation,
    read_yosys,
)

GATES = {
    "INV": lambda a: 1 - a,
    "NAND": lambda a, b: 1 - (a & b),
    "XOR": lambda a, b: a ^ b,
}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.setenv("FMTC_CACHE", str(tmp_path / "cache"))
    return load_library(str(cells.write(tmp_path)))


def gate(cell: str, output: int, *inputs: int) -> Instance:
    return Instance(cell, {**dict(zip("AB", inputs, strict=False)), "Y": output})


def netlist(inputs: dict[str, tuple[int, ...]], outputs: dict[str, tuple[int, ...]], *gates):
    return Netlist("top", inputs, outputs, gates)


HALF_ADDER = netlist(
    {"x_i": (2, 3)},
    {"y_o": (4, 6)},
    gate("XOR", 4, 2, 3),
    gate("INV", 6, 5),
    gate("NAND", 5, 2, 3),
)

#: An input and its inverse: never equal when settled, for a moment when it changes.
HAZARD = netlist({"x_i": (2,)}, {"y_o": (4,)}, gate("INV", 3, 2), gate("XOR", 4, 2, 3))


def bits(*rows: tuple[int, ...]) -> Bits:
    return np.array(rows, np.uint8)


def everything(width: int) -> Bits:
    return ((np.arange(1 << width)[:, None] >> np.arange(width)) & 1).astype(np.uint8)


def random_netlist(seed: int) -> Netlist:
    draws = random.Random(seed)
    gates, nets = [], [0, 1, *range(2, 9)]
    for net in range(9, 60):
        cell = draws.choice(list(GATES))
        gates.append(gate(cell, net, *draws.choices(nets, k=1 if cell == "INV" else 2)))
        nets.append(net)
    draws.shuffle(gates)
    return netlist({"a_i": (2, 3, 4), "b_i": (5, 6, 7, 8)}, {"y_o": (59, 58, 20, 1)}, *gates)


def settled(one: Netlist, given: dict[int, int]) -> dict[int, int]:
    """All nets, gate after gate, as often as it takes."""
    state = {0: 0, 1: 1, **given}
    waiting = list(one.instances)
    while waiting:
        for instance in list(waiting):
            *inputs, output = instance.pins.values()
            if all(net in state for net in inputs):
                state[output] = GATES[instance.cell](*(state[net] for net in inputs))
                waiting.remove(instance)
    return state


def nets_of(one: Netlist, inputs: dict[str, Bits]) -> list[dict[int, int]]:
    count = len(next(iter(inputs.values())))
    return [
        settled(
            one,
            {
                net: int(inputs[name][v, i])
                for name, nets in one.inputs.items()
                for i, net in enumerate(nets)
            },
        )
        for v in range(count)
    ]


def test_a_half_adder_adds(tiny: Library) -> None:
    found = Simulation(HALF_ADDER, tiny).run({"x_i": everything(2)})
    assert found["y_o"].tolist() == [[0, 0], [1, 0], [1, 0], [0, 1]]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("vectors", [1, 2, 63, 64, 65, 200])
def test_random_netlists_give_what_their_gates_give(tiny: Library, seed: int, vectors: int) -> None:
    one, draws = random_netlist(seed), np.random.default_rng(seed)
    inputs = {
        name: draws.integers(0, 2, (vectors, len(nets)), np.uint8)
        for name, nets in one.inputs.items()
    }
    states = nets_of(one, inputs)
    simulation = Simulation(one, tiny)
    found = simulation.run(inputs)["y_o"]
    assert found.tolist() == [[s[net] for net in one.outputs["y_o"]] for s in states]
    changes = [sum(a[net] != b[net] for a, b in pairwise(states)) for net in range(one.nets)]
    assert simulation.toggles(inputs).tolist() == changes
    hazards = simulation.glitching_toggles(inputs)
    assert (hazards >= changes).all()
    assert ((hazards - changes) % 2 == 0).all()


def test_a_hazard_counts_only_where_gates_take_time(tiny: Library) -> None:
    simulation = Simulation(HAZARD, tiny)
    inputs = {"x_i": bits((0,), (1,), (0,))}
    assert simulation.toggles(inputs).tolist() == [0, 0, 2, 2, 0]
    assert simulation.glitching_toggles(inputs).tolist() == [0, 0, 2, 2, 4]


def test_area_is_the_sum_of_the_cells(tiny: Library) -> None:
    assert HALF_ADDER.area(tiny) == 7 + 2 + 3
    assert HALF_ADDER.cells == {"XOR": 1, "INV": 1, "NAND": 1}


def test_loads_are_what_hangs_on_a_net(tiny: Library) -> None:
    loads = HALF_ADDER.loads(tiny) * 1e15
    # Net 2: an XOR's and a NAND's A; net 3: their Bs; 4 and 6 leave the module; 5: the inverter.
    assert loads.tolist() == pytest.approx([0, 0, 3, 4, 4, 1, 4])


def test_a_change_costs_its_load_and_its_driver(tiny: Library) -> None:
    each = change_energies(HALF_ADDER, tiny) * 1e15
    inverter = (4 + 4 * 0.4 + 2) / 2
    assert each[2] == pytest.approx(3 * 2**2 / 2)
    assert each[5] == pytest.approx(1 * 2**2 / 2)
    assert each[6] == pytest.approx(4 * 2**2 / 2 + inverter)


def test_energy_is_changes_times_their_cost(tiny: Library) -> None:
    found = energy(HAZARD, tiny, {"x_i": bits((0,), (1,), (0,))})
    each = change_energies(HAZARD, tiny)
    assert found.dynamic == pytest.approx(each[2] + each[3])
    assert found.glitching == pytest.approx(each[2] + each[3] + 2 * each[4])
    assert found.leakage == pytest.approx(4e-9)
    assert found.vectors == 3


def test_what_never_changes_takes_no_dynamic_energy(tiny: Library) -> None:
    found = energy(HALF_ADDER, tiny, {"x_i": bits(*[(1, 1)] * 100)})
    assert found.dynamic == found.glitching == 0
    assert found.leakage > 0


def test_one_vector_is_no_change(tiny: Library) -> None:
    with pytest.raises(ValueError, match="two vectors"):
        energy(HALF_ADDER, tiny, {"x_i": bits((1, 1))})


@pytest.mark.parametrize(
    ("one", "says"),
    [
        (netlist({}, {"y_o": (3,)}, gate("INV", 3, 2), gate("INV", 2, 3)), "loop"),
        (netlist({}, {"y_o": (2,)}, Instance("DFF", {"D": 0, "C": 1, "Q": 2})), "remembers"),
        (netlist({}, {"y_o": (2,)}, Instance("FOO", {"Y": 2})), "no cell of"),
    ],
    ids=["loop", "register", "stranger"],
)
def test_what_is_not_combinational_is_refused(tiny: Library, one: Netlist, says: str) -> None:
    with pytest.raises(NotCombinational, match=says):
        Simulation(one, tiny)


@pytest.mark.parametrize(
    "inputs",
    [{}, {"z_i": bits((0, 1))}, {"x_i": bits((0,))}],
    ids=["none", "another", "narrow"],
)
def test_inputs_are_the_netlists(tiny: Library, inputs: dict[str, Bits]) -> None:
    with pytest.raises(ValueError, match="x_i"):
        Simulation(HALF_ADDER, tiny).run(inputs)


def test_a_netlist_survives_being_kept() -> None:
    one = random_netlist(3)
    assert Netlist.restored(one.stated()) == one


def test_the_netlist_of_yosys_is_read() -> None:
    text = """{"modules": {"top": {
      "ports": {"x_i": {"direction": "input", "bits": [2, 7]},
                "y_o": {"direction": "output", "bits": [9, "1", "0", 2]}},
      "cells": {"g": {"type": "NAND", "connections": {"A": [2], "B": ["1"], "Y": [9]}}}}}}"""
    found = read_yosys(text, "top")
    assert found.inputs == {"x_i": (2, 3)}
    assert found.outputs == {"y_o": (4, 1, 0, 2)}
    assert found.instances == (Instance("NAND", {"A": 2, "B": 1, "Y": 4}),)
