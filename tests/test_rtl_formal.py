"""Proofs of the generated Verilog, and of the prover: nothing wrong is ever called proven."""

from dataclasses import replace

import pytest
from fmtc import formats
from fmtc.codegen import NotExpressible
from fmtc.codegen.design import design_of, side_of
from fmtc.codegen.verilog import modules_of
from fmtc.codegen.verilog.parts.arithmetic_decoder import arithmetic_decoder, forms_of
from fmtc.codegen.verilog.parts.scale_apply import scale_apply
from fmtc.codegen.verilog.parts.tile import tile
from fmtc.runtime.backend import BackendUnavailable
from fmtc.runtime.rtl.claims import SIMULATED, claims_of, provable, prove_rtl
from fmtc.runtime.rtl.formal import PROVEN, REFUTED, UNFINISHED, Claim, prove
from fmtc.runtime.rtl.graphs import Ands, Table, cofactor
from fmtc.runtime.rtl.spec_accumulators import overflow_claim
from fmtc.runtime.rtl.spec_scales import rounding_claim
from representatives import HARDWARE
from rtl_tools import need

#: A 24 x 24 multiplier with its rounding is not compared in a short run.
SLOW_PARTS = ("output_scale",)
#: The steps of encoders, which formats share, have a test of their own.
ENCODER = ("encoder_absmax", "encoder_scale", "encoder_lane")
#: Formats whose encoders are proven: HIF words, minifloats and integers, and (slow) a signed rule.
ENCODED = (
    "hif8_ue4m4",
    "mxfp4",
    "mxint8",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("hif7_s1e5m5", "e4m3_ue4m6")),
)


@pytest.fixture(autouse=True)
def tools():
    need("yosys", "yosys-abc", "iverilog")


@pytest.mark.parametrize("name", HARDWARE)
def test_every_claim_about_the_hardware_is_proven(name):
    proofs = prove_rtl(formats.load(name), limit=60, skip=(*SLOW_PARTS, *ENCODER))
    assert [p.row() for p in proofs if p.status not in (PROVEN, SIMULATED)] == []
    proven = {p.subject.removeprefix(f"{name}_") for p in proofs if p.proven}
    assert proven >= {
        "element_decoder",
        "scale_decoder",
        "decoder",
        "multiply",
        "sum",
        "dot",
        "scale_product",
        "scale_apply",
        "scale_pipeline",
    }


def test_activations_of_another_format_are_proven_too():
    fmt = formats.load("e4m3_ue4m6")
    proofs = prove_rtl(fmt, fmt, limit=60, skip=(*SLOW_PARTS, *ENCODER, "scale_apply"))
    assert [p.row() for p in proofs if p.status not in (PROVEN, SIMULATED)] == []
    assert {"e4m3_ue4m6_multiply", "e4m3_ue4m6_dot"} <= {p.subject for p in proofs if p.proven}


@pytest.mark.parametrize("name", ENCODED)
def test_every_step_of_an_encoder_is_what_the_rationals_choose(name):
    fmt = formats.load(name)
    design = design_of(fmt, fmt)
    proven = set()
    for module in modules_of(design):
        if module.part in ENCODER:
            proofs = [prove(claim, 60) for claim in claims_of(design, module)]
            assert [proof.row() for proof in proofs if not proof.proven] == []
            proven |= {module.part for _ in proofs}
    assert proven >= {"encoder_scale", "encoder_lane"}


@pytest.mark.parametrize(
    ("part", "old", "new"),
    [
        ("encoder_lane", "wire odd = truncated[0];", "wire odd = 1'b1;"),
        ("encoder_scale", "wire [8:0] last = 9'd252;", "wire [8:0] last = 9'd251;"),
        ("encoder_absmax", "peak_0[node*18 +: 9];", "peak_0[node*18+9 +: 9];"),
    ],
)
def test_a_wrong_step_of_an_encoder_is_refuted(part, old, new):
    fmt = formats.load("mxfp4")
    design = design_of(fmt, fmt)
    module = next(m for m in modules_of(design) if m.part == part)
    [claim] = claims_of(design, module)
    proof = prove(mutated(claim, module.name, old, new), 60)
    assert proof.status == REFUTED, proof.row()
    assert proof.made != proof.meant


@pytest.mark.slow
@pytest.mark.parametrize("name", formats.names())
def test_no_claim_about_the_library_is_refuted(name):
    try:
        proofs = prove_rtl(formats.load(name), limit=120, skip=SLOW_PARTS)
    except NotExpressible as reason:
        pytest.skip(str(reason))
    assert [p.row() for p in proofs if p.status == REFUTED] == []
    unfinished = [p for p in proofs if p.status == UNFINISHED]
    assert all("no verdict within" in p.detail for p in unfinished), [p.row() for p in unfinished]


@pytest.mark.slow
@pytest.mark.parametrize("name", HARDWARE)
def test_rounding_is_proven_at_every_distance(name):
    proofs = prove_rtl(formats.load(name), limit=120, long=True, skip=("dot", *SLOW_PARTS))
    long = [p for p in proofs if p.subject == f"{name}_scale_apply"]
    assert len(long) == 3
    assert [p.row() for p in long if not p.proven] == []


@pytest.mark.slow
def test_the_product_of_two_binary32_numbers_is_proven():
    design, module = module_of("nvfp4", "output_scale")
    proofs = [prove(claim, 600) for claim in claims_of(design, module)]
    assert proofs
    assert [proof.row() for proof in proofs if not proof.proven] == []


# -- controls: what is wrong is refuted, by an input that shows it ---------------------------


def module_of(name, part):
    design = design_of(formats.load(name))
    modules = {module.part: module for module in provable(design) if module.owner.name == name}
    return design, modules[part]


def mutated(claim, module, old, new):
    text = claim.files[f"{module}.v"]
    assert text.count(old) >= 1, f"nothing to change in {module}"
    return replace(claim, files={**claim.files, f"{module}.v": text.replace(old, new, 1)})


WRONG = [
    ("mxfp4", "element_decoder", "4'h7: word = {1'b1, 3'h3", "4'h7: word = {1'b1, 3'h2"),
    ("mxfp4", "scale_decoder", "scale_nan_o = &exponent_field", "scale_nan_o = 1'b0"),
    ("hif8_ue4m4", "scale_decoder", "wire [3:0] mantissa", "wire [2:0] mantissa"),
    ("mxfp4", "decoder", ".code_i(code_i)", ".code_i(~code_i)"),
    ("e4m3_ue4m6", "arithmetic_decoder", "sign ? -magnitude", "sign ? magnitude"),
    ("mxfp4", "multiply", "assign term_o = ", "assign term_o = ~"),
    ("nvfp4", "dot", "assign sum_valid_o = &", "assign sum_valid_o = |"),
    ("mxfp4", "scale_product", "product_zero_o = ~(|sum_i) |", "product_zero_o ="),
    ("mxfp4", "scale_pipeline", "accumulator_q <= accumulator_i", "accumulator_q <= 32'd0"),
]


@pytest.mark.parametrize(("name", "part", "old", "new"), WRONG, ids=lambda value: str(value)[:18])
def test_a_wrong_module_is_refuted_by_an_input(name, part, old, new):
    design, module = module_of(name, part)
    proofs = [prove(mutated(claim, module.name, old, new)) for claim in claims_of(design, module)]
    refuted = [proof for proof in proofs if proof.status == REFUTED]
    assert refuted, [proof.row() for proof in proofs]
    for proof in refuted:
        assert proof.inputs
        assert set(proof.inputs) <= {
            port for claim in claims_of(design, module) for port, _ in claim.inputs
        }
        if proof.meant:
            assert proof.made != proof.meant
            assert "should be" in proof.counterexample()


def test_a_rounding_that_forgets_ties_is_refuted():
    design = design_of(formats.load("mxfp4"))
    module = scale_apply(design)
    claim = rounding_claim(design, module, [(127, 127)])
    name = "mxfp4_normalize_round"
    text = claim.files[f"{name}.v"]
    assert "kept[0]" in text
    wrong = prove(
        replace(claim, files={**claim.files, f"{name}.v": text.replace("kept[0] | ", "1'b0 | ")})
    )
    assert wrong.status == REFUTED
    assert wrong.inputs["product_exponent_i"] == 127


@pytest.mark.parametrize("name", ["sop_pair", "mxfp4", "e4m3_ue4m6"])
def test_accumulators_cannot_overflow_and_one_bit_less_could(name):
    design = design_of(formats.load(name))
    module = tile(design)
    text = module.text()
    assert prove(overflow_claim(design, module.name, text)).proven
    bits = design.total.bits
    narrow = text.replace(f"localparam SumBits = {bits};", f"localparam SumBits = {bits - 1};")
    assert narrow != text
    wrong = prove(overflow_claim(design, module.name, narrow))
    assert wrong.status == REFUTED
    assert wrong.made != wrong.meant


def test_an_accumulator_of_another_form_is_not_claimed():
    design = design_of(formats.load("mxfp4"))
    with pytest.raises(ValueError, match="no accumulator of the known form"):
        overflow_claim(design, "mxfp4_tile", "module mxfp4_tile;\nendmodule\n")


# -- the prover -----------------------------------------------------------------------------


def claim_of(made, meant="", table=None):
    """That two expressions over a and b are equal, or one and a table."""
    ports = "(input wire [3:0] a_i, input wire b_i, output wire [3:0] y_o)"
    return Claim(
        subject="made",
        statement="equal",
        inputs=(("a_i", 4), ("b_i", 1)),
        outputs=(("y_o", 4),),
        files={
            "made.v": f"module made {ports};\n  {made}\nendmodule\n",
            "meant.v": f"module meant {ports};\n  {meant}\nendmodule\n",
        },
        made="made",
        meant=table or "meant",
    )


def test_equal_modules_are_proven_and_others_shown():
    assert prove(claim_of("assign y_o = a_i + b_i;", "assign y_o = b_i ? a_i - 4'hf : a_i;")).proven
    proof = prove(claim_of("assign y_o = a_i + b_i;", "assign y_o = a_i | b_i;"))
    assert proof.status == REFUTED
    assert proof.inputs["b_i"] == 1
    assert proof.inputs["a_i"] % 2 == 1
    assert proof.made["y_o"] == (proof.inputs["a_i"] + 1) % 16
    assert proof.meant["y_o"] == proof.inputs["a_i"]


def test_a_table_is_what_a_module_should_be():
    ports = {"inputs": (("a_i", 4), ("b_i", 1)), "outputs": (("y_o", 4),)}
    right = Table(**ports, look_up=lambda given: {"y_o": given["a_i"] * (1 + given["b_i"])})
    assert prove(claim_of("assign y_o = a_i << b_i;", table=right)).proven
    wrong = Table(**ports, look_up=lambda given: {"y_o": given["a_i"]})
    proof = prove(claim_of("assign y_o = a_i << b_i;", table=wrong))
    assert proof.status == REFUTED
    assert proof.made["y_o"] != proof.meant["y_o"] == proof.inputs["a_i"]


@pytest.mark.parametrize(
    ("made", "meant", "words"),
    [
        ("assign y_o = a_i", "assign y_o = a_i;", "syntax error"),
        ("assign y_o = a_i;", "missing u_missing ();", "missing"),
        (
            "assign y_o = a_i;",
            "reg [3:0] q; always @(posedge b_i) q <= a_i; assign y_o = q;",
            "",
        ),
    ],
    ids=["no verilog", "no module", "a register on one side"],
)
def test_what_cannot_be_compared_is_not_proven(made, meant, words):
    proof = prove(claim_of(made, meant))
    assert proof.status == UNFINISHED
    assert words in proof.detail


def test_modules_with_other_ports_are_not_proven():
    claim = claim_of("assign y_o = a_i;", "assign y_o = a_i;")
    files = {**claim.files, "meant.v": claim.files["meant.v"].replace("b_i", "c_i")}
    proof = prove(replace(claim, files=files))
    assert proof.status == UNFINISHED
    assert "ports or registers differ" in proof.detail


def test_a_proof_that_takes_too_long_says_so():
    squares = "module {0} (input wire [19:0] a_i, input wire [19:0] b_i, output wire [39:0] y_o);\n"
    squares += "  wire [39:0] a = a_i; wire [39:0] b = b_i;\n  assign y_o = {1};\nendmodule\n"
    claim = Claim(
        subject="made",
        statement="binomial",
        inputs=(("a_i", 20), ("b_i", 20)),
        outputs=(("y_o", 40),),
        files={
            "made.v": squares.format("made", "(a + b) * (a + b)"),
            "meant.v": squares.format("meant", "a * a + ((a * b) << 1) + b * b"),
        },
        made="made",
        meant="meant",
    )
    proof = prove(claim, limit=1)
    assert proof.status == UNFINISHED
    assert "no verdict within 1 s" in proof.detail


def test_a_missing_tool_names_the_line_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendUnavailable, match=r"apt-get install .* yosys"):
        prove_rtl(formats.load("mxfp4"))


def test_a_graph_with_fixed_inputs_is_that_graph():
    ands = Ands((("a_i", 3), ("b_i", 3)))
    graph = ands.file({"y_o": ands.multiply(ands.port("a_i", 3), ands.port("b_i", 3), 6)})
    fixed = Ands((("a_i", 3),))
    wanted = fixed.file({"y_o": fixed.multiply(fixed.port("a_i", 3), [1, 0, 1], 6)})
    found = cofactor(graph, {"b_i[0]": 1, "b_i[1]": 0, "b_i[2]": 1})
    assert b"b_i" not in found
    assert found == wanted


# -- decoders by arithmetic -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("mxfp4", ["float"]),
        ("e4m3_ue4m6", ["float"]),
        ("mixfp4", ["float", "float"]),
        ("mxint8", ["integer"]),
        ("hif8_ue4m4", ["hif"]),
        ("e2m5_ue4m6", ["float"]),
    ],
)
def test_arithmetic_decodes_what_is_of_such_a_form(name, kinds):
    forms = forms_of(side_of(formats.load(name)))
    assert [form.kind for form in forms or ()] == kinds


@pytest.mark.parametrize("name", ["nf4", "sop_pair", "block_dialect"])
def test_a_codebook_has_no_arithmetic(name):
    with pytest.raises(NotExpressible, match="no float, integer or HIF word"):
        arithmetic_decoder(side_of(formats.load(name)))


@pytest.mark.parametrize("name", ["mxint8", "hif8_ue4m4", "mxfp6_e3m2", "mxfp8_e5m2"])
def test_arithmetic_decoders_are_equal_to_their_tables(name):
    fmt = formats.load(name)
    design = design_of(fmt)
    module = arithmetic_decoder(side_of(fmt))
    claims = claims_of(design, module)
    assert any("equal to the table" in claim.statement for claim in claims)
    proofs = [prove(claim) for claim in claims]
    assert [proof.row() for proof in proofs if not proof.proven] == []


def test_every_part_has_a_claim_or_says_that_it_is_simulated():
    design = design_of(formats.load("mxfp4"))
    parts = {module.part for module in modules_of(design) if claims_of(design, module)}
    assert {"element_decoder", "scale_decoder", "multiply", "sum", "dot"} <= parts
