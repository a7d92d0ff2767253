"""Tests of a core that run inside a simulator, by cocotb; ``test_rtl_core`` starts them.

The design under test is named by the environment: FMTC_FORMAT, FMTC_ROWS, FMTC_COLUMNS.
"""

import os
from dataclasses import replace
from random import Random

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge, Timer, with_timeout
from cocotb.types import LogicArray
from fmtc.codegen.design import design_of
from fmtc.codegen.vectors.core import bench_commands, results_of
from fmtc.codegen.verilog.parts.core import streams_of
from fmtc.codegen.verilog.parts.core_bench import COUNT_BITS, table_of
from fmtc.compiler.hosts import HIF_HOSTS
from fmtc.formats import load

ROWS, COLUMNS = int(os.environ["FMTC_ROWS"]), int(os.environ["FMTC_COLUMNS"])
DESIGN = design_of(load(os.environ["FMTC_FORMAT"]))
PARAMETERS = {"Rows": ROWS, "Columns": COLUMNS, "CountBits": COUNT_BITS}
STREAMS = {
    name: {port.name: port.width(PARAMETERS) for port in ports}
    for name, ports in streams_of(DESIGN)
}
LOADABLE = bool(int(os.environ["FMTC_LOADABLE"]))
PICOSECONDS = 2000


def joined(lanes, bits):
    return sum(int(lane) << i * bits for i, lane in enumerate(lanes))


def beats_of(commands):
    """Every stream's beats: port -> integer."""
    w, a = DESIGN.weights, DESIGN.activations
    beats = {name: [] for name in STREAMS}
    for c in commands:
        offset = {"command_blocks_i": c.blocks, "command_exponent_offset_i": c.exponent_offset}
        beats["command"].append(offset)
        for k in range(c.steps):
            codes = {"weight_codes_i": joined(c.weights.codes[:, k], w.code_bits)}
            if "weight_mask_i" in STREAMS["weight"]:
                codes["weight_mask_i"] = joined(c.weights.masks[:, k], 1)
            beats["weight"].append(codes)
            beats["activation"].append(
                {"activation_codes_i": joined(c.activations.codes[:, k], a.code_bits)}
            )
        for block in range(c.blocks):
            for unit, side, lanes in (("weight", w, c.weights), ("activation", a, c.activations)):
                beat = {f"{unit}_scale_words_i": joined(lanes.words[:, block], side.container)}
                if side.select_is_field:
                    selects = joined(lanes.selects[:, block], side.select_bits)
                    beat[f"{unit}_scale_selects_i"] = selects
                beats[f"{unit}_scale"].append(beat)
    return beats


def expected(commands):
    rows = [row for c in commands for row in results_of(DESIGN, c).view(np.uint32)]
    return [joined(row, 32) for row in rows]


async def feed(dut, stream, beats, random, pause):
    """Offer beats; between them data is unknown, and must not be looked at."""
    valid, ready = getattr(dut, f"{stream}_valid_i"), getattr(dut, f"{stream}_ready_o")
    for beat in beats:
        while random.random() < pause:
            await RisingEdge(dut.clk_i)
        valid.value = 1
        for port, value in beat.items():
            getattr(dut, port).value = value
        await RisingEdge(dut.clk_i)
        while ready.value != 1:
            await RisingEdge(dut.clk_i)
        silence(dut, stream)


def silence(dut, stream):
    getattr(dut, f"{stream}_valid_i").value = 0
    for port, bits in STREAMS[stream].items():
        getattr(dut, port).value = LogicArray("X" * bits)


async def take(dut, count, random, pause):
    """So many rows of results, and the cycle of the last."""
    rows, cycles = [], 0
    while len(rows) < count:
        dut.result_ready_i.value = int(random.random() >= pause)
        await RisingEdge(dut.clk_i)
        cycles += 1
        assert dut.result_valid_o.value.is_resolvable
        assert dut.result_o.value.is_resolvable
        if dut.result_valid_o.value == 1 and dut.result_ready_i.value == 1:
            assert int(dut.result_last_o.value) == (len(rows) % ROWS == ROWS - 1)
            rows.append(int(dut.result_o.value))
    return rows, cycles


async def reset(dut):
    for stream in STREAMS:
        silence(dut, stream)
    dut.load_valid_i.value = 0
    dut.result_ready_i.value = 0
    # Not on any edge of the clock.
    dut.rst_ni.value = 0
    await Timer(3 * PICOSECONDS // 4, "ps")
    assert int(dut.result_valid_o.value) == 0
    dut.rst_ni.value = 1
    await RisingEdge(dut.clk_i)


async def start(dut):
    dut.rst_ni.value = 1
    cocotb.start_soon(Clock(dut.clk_i, PICOSECONDS, "ps").start())
    await reset(dut)
    if LOADABLE:
        await load_table(dut, DESIGN.weights)


async def load_table(dut, side):
    for values in table_of(side):
        dut.load_valid_i.value = 1
        for port, value in values.items():
            if hasattr(dut, port):
                getattr(dut, port).value = value
        await RisingEdge(dut.clk_i)
    dut.load_valid_i.value = 0


def set_going(dut, commands, random, pauses):
    beats = beats_of(commands)
    return [
        cocotb.start_soon(feed(dut, name, beats[name], Random(random.random()), pauses[name]))
        for name in STREAMS
    ]


async def through(dut, commands, random, pauses, reader=0.0):
    """All results of commands, compared; the cycles that it took."""
    feeders = set_going(dut, commands, random, pauses)
    want = expected(commands)
    taking = take(dut, len(want), random, reader)
    found, cycles = await with_timeout(taking, 1000 * PICOSECONDS * len(want), "ns")
    assert [f"{row:x}" for row in found] == [f"{row:x}" for row in want]
    for feeder in feeders:
        assert feeder.done()
    return cycles


def all_at(pause):
    return dict.fromkeys(STREAMS, pause)


@cocotb.test()
async def commands_go_through_at_full_speed(dut):
    await start(dut)
    commands = bench_commands(DESIGN, ROWS, COLUMNS)
    cycles = await through(dut, commands, Random(1), all_at(0))
    steps = sum(c.steps for c in commands)
    # What is left: from a code to its sum, to its result, and the last rows out.
    assert cycles - steps <= 8 + DESIGN.block + ROWS


@cocotb.test()
async def results_are_the_same_whatever_pauses(dut):
    await start(dut)
    for seed in range(6):
        random = Random(seed)
        pauses = {name: random.choice([0, 0, 0.3, 0.8]) for name in STREAMS}
        commands = bench_commands(DESIGN, ROWS, COLUMNS, salt=seed)
        await through(dut, commands, random, pauses, reader=random.choice([0, 0.5, 0.9]))


@cocotb.test()
async def one_slow_stream_holds_the_others_without_loss(dut):
    await start(dut)
    commands = bench_commands(DESIGN, ROWS, COLUMNS)[:3]
    for name in STREAMS:
        await through(dut, commands, Random(7), all_at(0) | {name: 0.95})


@cocotb.test()
async def a_reset_at_any_moment_forgets_everything(dut):
    await start(dut)
    random = Random(3)
    commands = bench_commands(DESIGN, ROWS, COLUMNS, salt=40)
    steps = sum(c.steps for c in commands)
    for moment in [*range(1, 9), *(random.randrange(9, steps + 30) for _ in range(6))]:
        feeders = set_going(dut, commands, random, all_at(random.choice([0, 0.4])))
        dut.result_ready_i.value = random.randrange(2)
        await ClockCycles(dut.clk_i, moment)
        for feeder in feeders:
            feeder.cancel()
        await reset(dut)
        if LOADABLE:
            await load_table(dut, DESIGN.weights)
        await through(dut, commands[:2], random, all_at(0))


@cocotb.test()
async def a_command_that_is_not_read_lets_the_next_begin(dut):
    await start(dut)
    commands = bench_commands(DESIGN, ROWS, COLUMNS)[3:5]
    feeders = set_going(dut, commands, Random(5), all_at(0))
    dut.result_ready_i.value = 0
    await ClockCycles(dut.clk_i, sum(c.steps for c in commands) + 100)
    # The second command has one block: it went in whole, and waits for the first's results.
    assert all(feeder.done() for feeder in feeders)
    rows, _ = await take(dut, 2 * ROWS, Random(5), 0)
    assert rows == expected(commands)


@cocotb.test(skip=not LOADABLE or DESIGN.weights.fmt.host not in HIF_HOSTS)
async def a_table_takes_any_codebook_of_the_host(dut):
    await start(dut)
    host = sorted(HIF_HOSTS[DESIGN.weights.fmt.host].words())
    random = Random(9)
    fmt = DESIGN.weights.fmt
    grids = tuple(
        replace(grid, values=tuple(map(type(grid.high), random.sample(host, len(grid.values)))))
        for grid in fmt.grids
    )
    other = design_of(replace(fmt, grids=grids))
    await load_table(dut, other.weights)
    for command in bench_commands(other, ROWS, COLUMNS)[:4]:
        want = [joined(row, 32) for row in results_of(other, command).view(np.uint32)]
        feeders = set_going(dut, [command], random, all_at(0))
        found, _ = await take(dut, ROWS, random, 0)
        assert found == want
        assert all(feeder.done() for feeder in feeders)


@cocotb.test(skip=not LOADABLE)
async def an_empty_table_makes_every_result_nan(dut):
    await start(dut)
    await reset(dut)
    command = bench_commands(DESIGN, ROWS, COLUMNS)[0]
    set_going(dut, [command], Random(1), all_at(0))
    found, _ = await take(dut, ROWS, Random(1), 0)
    assert found == [joined([0x7FC00000] * COLUMNS, 32)] * ROWS
