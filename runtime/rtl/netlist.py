"""Netlists of mapped cells, and their simulation in NumPy, sixty-four vectors a word."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .boolean import Words
from .liberty import Library

#: Bits of a port over vectors: uint8 [vectors, bits], 0 or 1, the least significant bit first.
Bits = NDArray[np.uint8]

#: Nets 0 and 1 are the constants.
_ZERO, _ONE = 0, 1
_WORD = 64
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)

#: Steps of a unit-delay simulation after which a netlist counts as one that never settles.
_MOST_STEPS = 4096


class NotCombinational(ValueError):
    """A netlist has a register or a loop; the message says where."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A cell in a netlist: its type, and the net at every pin."""

    cell: str
    pins: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Batch:
    """Cells of one type whose inputs are all known: columns of nets, by pin."""

    cell: str
    inputs: Mapping[str, NDArray[np.intp]]
    outputs: Mapping[str, NDArray[np.intp]]


@dataclass(frozen=True)
class Netlist:
    """Cells and nets. Nets are numbers from 2 on; 0 and 1 are the constants.

    Attributes:
        inputs, outputs: port -> its nets, the least significant bit first.
    """

    top: str
    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]
    instances: tuple[Instance, ...] = field(repr=False)

    @cached_property
    def nets(self) -> int:
        """One more than the largest net."""
        ports = (net for nets in (*self.inputs.values(), *self.outputs.values()) for net in nets)
        pins = (net for instance in self.instances for net in instance.pins.values())
        return 1 + max((_ONE, *ports, *pins))

    @cached_property
    def cells(self) -> Counter[str]:
        """How many cells of each type there are."""
        return Counter(instance.cell for instance in self.instances)

    def area(self, library: Library) -> float:
        """The sum of the cells' areas, in the library's unit.

        Raises:
            KeyError: a cell is not the library's.
        """
        return sum(library.cells[cell].area * count for cell, count in self.cells.items())

    def loads(self, library: Library) -> NDArray[np.float64]:
        """Farads at every net: inputs of cells, and ``library.load`` at every output port."""
        loads = np.zeros(self.nets)
        for instance in self.instances:
            for pin, load in library.cells[instance.cell].inputs.items():
                loads[instance.pins[pin]] += load
        for nets in self.outputs.values():
            loads[list(nets)] += library.load
        return loads

    def stated(self) -> dict[str, Any]:
        """The netlist as JSON-ready values; ``restored`` reads them."""
        return {
            "top": self.top,
            "inputs": {name: list(nets) for name, nets in self.inputs.items()},
            "outputs": {name: list(nets) for name, nets in self.outputs.items()},
            "cells": [[i.cell, dict(i.pins)] for i in self.instances],
        }

    @classmethod
    def restored(cls, stated: Mapping[str, Any]) -> Netlist:
        """The netlist that ``stated`` described."""
        return cls(
            stated["top"],
            {name: tuple(nets) for name, nets in stated["inputs"].items()},
            {name: tuple(nets) for name, nets in stated["outputs"].items()},
            tuple(Instance(cell, pins) for cell, pins in stated["cells"]),
        )


def read_yosys(text: str, top: str) -> Netlist:
    """The netlist of a module in the JSON that yosys writes.

    Raises:
        KeyError: there is no such module.
    """
    module = json.loads(text)["modules"][top]
    numbers: dict[int | str, int] = {"0": _ZERO, "x": _ZERO, "z": _ZERO, "1": _ONE}
    found = count(_ONE + 1)

    def fresh(bit: int | str) -> int:
        if bit not in numbers:
            numbers[bit] = next(found)
        return numbers[bit]

    ports: dict[str, dict[str, tuple[int, ...]]] = {"input": {}, "output": {}}
    for name, port in module["ports"].items():
        ports[port["direction"]][name] = tuple(fresh(bit) for bit in port["bits"])
    instances = tuple(
        Instance(cell["type"], {pin: fresh(bits[0]) for pin, bits in cell["connections"].items()})
        for cell in module["cells"].values()
    )
    return Netlist(top, ports["input"], ports["output"], instances)


class Simulation:
    """A combinational netlist made ready to run.

    Args:
        netlist: of the library's cells alone.
        library: says what they compute.

    Raises:
        NotCombinational: there is a cell that remembers, or a loop.
    """

    def __init__(self, netlist: Netlist, library: Library) -> None:
        self.netlist = netlist
        self._library = library
        self._levels = list(_levels(netlist, library))
        self._batches = [batch for level in self._levels for batch in level]
        self._merged = list(_batches(netlist.instances, library))

    def run(self, inputs: Mapping[str, Bits]) -> dict[str, Bits]:
        """Output port -> uint8 [vectors, bits] from input port -> the same."""
        state, vectors = self._settled(inputs)
        return {
            name: _unpacked(state[list(nets)], vectors)
            for name, nets in self.netlist.outputs.items()
        }

    def toggles(self, inputs: Mapping[str, Bits]) -> NDArray[np.int64]:
        """How often every net changes from vector to vector, when gates take no time: [nets]."""
        state, vectors = self._settled(inputs)
        changes = state ^ _following(state)
        return _ones(changes & _mask(vectors - 1, state.shape[1]))

    def glitching_toggles(self, inputs: Mapping[str, Bits]) -> NDArray[np.int64]:
        """The same when every gate takes one unit of time, so that hazards count: [nets].

        Every pair of neighbouring vectors is a case of its own: settled under the first, the
        second comes, and steps are taken until nothing changes.
        """
        state, vectors = self._settled(inputs)
        mask = _mask(vectors - 1, state.shape[1])
        ports = [net for nets in self.netlist.inputs.values() for net in nets]
        following = _following(state)
        counts = np.zeros(self.netlist.nets, np.int64)
        counts[ports] = _ones((state ^ following)[ports] & mask)
        state[ports] = following[ports]
        for _ in range(_MOST_STEPS):
            new = [
                (nets, words) for batch in self._merged for nets, words in self._of(batch, state)
            ]
            changed = False
            for nets, words in new:
                changes = (state[nets] ^ words) & mask
                if changes.any():
                    changed = True
                    counts[nets] += _ones(changes)
                state[nets] = words
            if not changed:
                return counts
        raise NotCombinational(f"{self.netlist.top} does not settle")

    def _settled(self, inputs: Mapping[str, Bits]) -> tuple[Words, int]:
        """The words of all nets, [nets, words], and how many vectors they hold."""
        (vectors,) = {len(bits) for bits in inputs.values()} or {1}
        state = np.zeros((self.netlist.nets, -(-vectors // _WORD)), np.uint64)
        state[_ONE] = _ALL
        if inputs.keys() != self.netlist.inputs.keys():
            raise ValueError(
                f"{self.netlist.top} has the inputs {sorted(self.netlist.inputs)}, "
                f"not {sorted(inputs)}"
            )
        for name, bits in inputs.items():
            port = self.netlist.inputs[name]
            if bits.shape != (vectors, len(port)):
                raise ValueError(f"{name} is {bits.shape}, not {(vectors, len(port))}")
            state[list(port)] = _packed(bits)
        for batch in self._batches:
            for nets, words in self._of(batch, state):
                state[nets] = words
        return state, vectors

    def _of(self, batch: _Batch, state: Words) -> Iterator[tuple[NDArray[np.intp], Words]]:
        pins = {pin: state[nets] for pin, nets in batch.inputs.items()}
        for pin, nets in batch.outputs.items():
            value = self._library.function(batch.cell, pin).value(pins)
            yield nets, np.broadcast_to(value, (len(nets), state.shape[1]))


def _levels(netlist: Netlist, library: Library) -> Iterator[list[_Batch]]:
    """The cells in an order in which every input is known, those of one depth together."""
    waiting = [0] * len(netlist.instances)
    readers: dict[int, list[int]] = defaultdict(list)
    driven = {
        net
        for instance in netlist.instances
        for pin, net in instance.pins.items()
        if pin in _cell_functions(library, instance)
    }
    for i, instance in enumerate(netlist.instances):
        for pin in library.cells[instance.cell].inputs:
            if instance.pins[pin] in driven:
                readers[instance.pins[pin]].append(i)
                waiting[i] += 1
    ready = [i for i, count_ in enumerate(waiting) if not count_]
    done = 0
    while ready:
        done += len(ready)
        yield list(_batches([netlist.instances[i] for i in ready], library))
        following = []
        for i in ready:
            instance = netlist.instances[i]
            for pin in library.cells[instance.cell].functions:
                for reader in readers[instance.pins[pin]] if pin in instance.pins else ():
                    waiting[reader] -= 1
                    if not waiting[reader]:
                        following.append(reader)
        ready = following
    if done < len(netlist.instances):
        raise NotCombinational(f"{netlist.top} has a loop through its gates")


def _cell_functions(library: Library, instance: Instance) -> Mapping[str, str]:
    cell = library.cells.get(instance.cell)
    if cell is None:
        raise NotCombinational(f"{instance.cell} is no cell of {library.label}")
    if not cell.functions:
        raise NotCombinational(f"{instance.cell} is no gate: it remembers, or has no output")
    return cell.functions


def _batches(instances: Iterable[Instance], library: Library) -> Iterator[_Batch]:
    by_shape: dict[tuple[str, tuple[str, ...]], list[Instance]] = defaultdict(list)
    for instance in instances:
        functions = library.cells[instance.cell].functions
        used = tuple(pin for pin in functions if pin in instance.pins)
        by_shape[instance.cell, used].append(instance)
    for (name, used), group in by_shape.items():
        cell = library.cells[name]
        yield _Batch(
            name,
            {pin: np.array([i.pins[pin] for i in group], np.intp) for pin in cell.inputs},
            {pin: np.array([i.pins[pin] for i in group], np.intp) for pin in used},
        )


def _ones(words: Words) -> NDArray[np.int64]:
    """How many bits of every row are 1."""
    counts: NDArray[np.int64] = np.bitwise_count(words).sum(axis=1, dtype=np.int64)
    return counts


def _packed(bits: Bits) -> Words:
    """uint8 [vectors, bits] -> uint64 [bits, words], vector v in bit v % 64 of word v // 64."""
    vectors, width = bits.shape
    padded = np.zeros((width, -(-vectors // _WORD) * _WORD), np.uint8)
    padded[:, :vectors] = bits.T
    return np.packbits(padded, axis=1, bitorder="little").view("<u8").astype(np.uint64)


def _unpacked(words: Words, vectors: int) -> Bits:
    octets = np.ascontiguousarray(words.astype("<u8")).view(np.uint8)
    return np.unpackbits(octets, axis=1, bitorder="little")[:, :vectors].T


def _following(words: Words) -> Words:
    """Every vector's place taken by the one behind it."""
    shifted = words >> np.uint64(1)
    shifted[:, :-1] |= words[:, 1:] << np.uint64(_WORD - 1)
    return shifted


def _mask(vectors: int, words: int) -> Words:
    """Ones in the places of the first vectors."""
    places = np.zeros((1, words * _WORD), np.uint8)
    places[:, :vectors] = 1
    return np.packbits(places, axis=1, bitorder="little").view("<u8").astype(np.uint64)
