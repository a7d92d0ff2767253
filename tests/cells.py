"""A small cell library, written by hand, whose figures are easy to add up."""

from __future__ import annotations

from pathlib import Path

INVERTER = """
  cell (INV) {
    area : 2;
    cell_leakage_power : 3;
    pin (A) { direction : input; capacitance : 1.0; }
    pin (Y) {
      direction : output; function : "A'";
      timing () { related_pin : "A";
        rise_transition (slews) { values ("0.1, 0.1", "0.1, 0.1"); }
        fall_transition (slews) { values ("0.3, 0.3", "0.3, 0.3"); } }
      internal_power () { related_pin : "A";
        rise_power (energies) { values ("4, 4", "8, 8"); }
        fall_power (energies) { values ("2, 2", "2, 2"); } }
    }
  }"""
NAND = """
  cell (NAND) {
    area : 3; cell_leakage_power : 5;
    pin (A) { direction : input; capacitance : 2; }
    pin (B) { direction : input; capacitance : 3; }
    pin (Y) { direction : output; function : "!(A B)"; }
  }"""
XOR = """
  cell (XOR) {
    area : 7; cell_leakage_power : 1;
    pin (A) { direction : input; capacitance : 1; }
    pin (B) { direction : input; capacitance : 1; }
    pin (Y) { direction : output; function : "A^B"; }
  }"""
REGISTER = """
  cell (DFF) {
    area : 11;
    ff (IQ, IQN) { next_state : "D"; clocked_on : "C"; }
    pin (D) { direction : input; capacitance : 1; }
    pin (C) { direction : input; capacitance : 1; clock : true; }
    pin (Q) { direction : output; function : "IQ"; }
  }"""
HEAD = """
  /* femtofarads, nanoseconds, volts: energies are femtojoules */
  time_unit : "1ns"; voltage_unit : "1V"; capacitive_load_unit (1, ff);
  leakage_power_unit : "1nW";
  nom_voltage : 2.0
  lu_table_template (slews) {
    variable_1 : total_output_net_capacitance; variable_2 : input_net_transition;
    index_1 ("0, 10"); index_2 ("0, 1");
  }
  power_lut_template (energies) {
    variable_1 : total_output_net_capacitance; variable_2 : input_transition_time;
    index_1 ("0, 10"); index_2 ("0, 1");
  }"""


def text_of(*cells: str) -> str:
    return f"library (tiny) {{{HEAD}{''.join(cells)}\n}}\n"


TINY = text_of(INVERTER, NAND, XOR, REGISTER)


def write(folder: Path, text: str = TINY) -> Path:
    file = folder / "tiny.lib"
    file.write_text(text)
    return file
