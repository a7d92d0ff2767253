from __future__ import annotations

import itertools

import pytest
from fmtc import compile_text
from fmtc.dsl import File, FormatError, GridDecl, Setting, Text, parse, print_file
from fmtc.dsl.sop import is_sop, parse_sop
from fmtc.formats.files import shipped_atoms, shipped_formats, template_files
from hypothesis import given, settings
from hypothesis import strategies as st

EXAMPLES = [
    "E2M5",
    "E2M3sUE4M4",
    "HIF7sUE4M4",
    "HIF7sUE4M6",
    "HIF7sUE5M7",
    "HIF7sE8M7",
    "HIF8sUE4M4",
    "E2M5sUE4M6",
    "E4M3sUE4M6",
    "E4M3^0sUE8M0",
    "NF4|DD4sUE4M3",
    "NF4|DD4^16sUE4M3",
    "NF4|DD4^16sUE4M3+knap0.10",
    "NF4|DD4^16sUE4M3+knap0.10.OPQ.Wr",
    "NF4|DD4^16sUE4M3+E2M3sUE4M4.OPQ0.92.Wr0.001",
    "SH4|BOF4-SsS1E5M5",
    "SH4|-SH4sS1E5M5",
    "NF4|SH4|BOF4|AF4sS0E5M5",
    "BOF4^64sFP32",
    "IQ4_NL^32sFP16",
    "INT4^128sBF16",
    "Split87|MPO2sE4M3",
    "NF5|SH5sUE4M3",
]


def clauses_of(string: str) -> list[str]:
    """The printed clauses of a string, behind the source that all have."""
    text = print_file(parse_sop(string))
    body = text[text.index("{\n") + 2 : text.rindex("}")].splitlines()
    assert body[0].split() == ["cite", '"SOP,', 'arXiv:2605.14929"']
    return [" ".join(line.split()) for line in body[1:]]


@pytest.mark.parametrize("string", EXAMPLES)
def test_a_string_prints_as_a_file_that_reads_back(string):
    file = parse_sop(string)
    (declaration,) = file.formats
    assert declaration.title == Text(string)
    assert declaration.name.text.isidentifier()
    assert parse(print_file(file)) == file
    assert is_sop(string) == (string != "E2M5")


def test_a_string_with_every_part_is_said_in_full():
    assert print_file(parse_sop("NF4|-BOF4-S^32sE4M3+knap0.10.OPQ0.92.Wr0.001")) == (
        'import "nf4"\n'
        'import "bof4s_i32"\n'
        "\n"
        "format nf4__bof4_s_32se4m3_knap0_10_opq0_92_wr0_001 "
        '"NF4|-BOF4-S^32sE4M3+knap0.10.OPQ0.92.Wr0.001" {\n'
        '  cite    "SOP, arXiv:2605.14929"\n'
        "  block   32\n"
        "  grid    nf4\n"
        "  grid    neg_bof4s = bof4s_i32 { order negated }\n"
        "  scale   e4m3 { rule absmax  shift auto }\n"
        "  select  1 bit at scale.sign { 0: nf4, 1: neg_bof4s }\n"
        "  promote knap(0.10)\n"
        "  side    opq { quantile 0.92 }\n"
        "  side    wr { fraction 0.001 }\n"
        "}\n"
    )


@pytest.mark.parametrize(
    ("string", "clause"),
    [
        ("E2M3sUE4M4", "block 16"),
        ("E4M3^0sUE8M0", "block tensor"),
        ("NF4^64sFP32", "block 64"),
        ("E2M3sUE4M4", "scale ue4m4 { rule absmax shift auto }"),
        ("E4M3sUE8M0", "scale ue8m0 { rule absmax }"),
        ("E4M3sE8M0", "scale e8m0 { rule absmax }"),
        ("E4M3sFP32", "scale fp32 { rule absmax }"),
        ("E4M3sBF16", "scale bf16 { rule absmax }"),
        ("E4M3sFP16", "scale fp16 { rule absmax shift auto }"),
        ("E4M3sE8M7", "scale e8m7 { rule absmax }"),
        ("E4M3sUE4M6", "scale ue4m6 { rule absmax shift auto container 10 }"),
        ("E4M3", "scale fp32 { rule absmax }"),
        ("HIF7sE4M3", "grid hif7"),
        ("UE4M3sE4M3", "grid ue4m3"),
        ("INT4sE4M3", "grid int4 = int 4"),
        ("iq4_nlsE4M3", "grid iq4_nl"),
        ("-HIF7sE4M3", "grid neg_hif7 = plain_hif7 { order negated }"),
        ("NF4|SH4sUE4M3", "select 1 bit at scale.meta { 0: nf4, 1: sh4 }"),
        ("NF4|SH4sS1E5M5", "select 1 bit at scale.meta { 0: nf4, 1: sh4 }"),
        ("NF4|SH4sE4M3", "select 1 bit at scale.sign { 0: nf4, 1: sh4 }"),
        ("NF4|SH4", "select 1 bit at scale.sign { 0: nf4, 1: sh4 }"),
        ("NF4|SH4|AF4sS0E5M5", "select 2 bits at scale.meta { 0: nf4, 1: sh4, 2: af4 }"),
        ("NF4sE4M3+NF5sUE4M4", 'promote "NF5sUE4M4"'),
        ("NF4sE4M3+HIF7", 'promote "HIF7"'),
        ("NF4sE4M3.OPQ", "side opq"),
        ("NF4sE4M3.OPQ2.8", "side opq { threshold 2.8 }"),
        ("NF4sE4M3.Wr.OPQ", "side wr"),
    ],
)
def test_a_part_of_a_string_becomes_a_clause(string, clause):
    assert clause in clauses_of(string)


@pytest.mark.parametrize(
    ("string", "bpw"),
    [
        ("E2M3sUE4M4", 6.5),
        ("E4M3sUE4M6", 8.625),
        ("E4M3^0sUE8M0", 8.0),
        ("NF4|SH4sUE4M3", 4.5),
        ("NF4|-NF4sS1E5M5", 4.75),
        ("BOF4^128sBF16", 4.125),
        ("NF4|SH4sUE4M3+knap0.10", 4.5),
    ],
)
def test_a_string_compiles_to_the_bits_per_weight_of_the_paper(string, bpw):
    assert compile_text(print_file(parse_sop(string))).bpw == bpw


@pytest.mark.parametrize(
    ("string", "name"),
    [
        ("E2M3sUE4M4", "e2m3_ue4m4"),
        ("E2M5sUE4M6", "e2m5_ue4m6"),
        ("E3M4sUE4M6", "e3m4_ue4m6"),
        ("E4M3sUE4M6", "e4m3_ue4m6"),
    ],
)
def test_a_string_means_the_shipped_format(string, name):
    ours = compile_text(print_file(parse_sop(string))).semantics()
    path = shipped_formats()[name]
    shipped = compile_text(path.read_text(encoding="utf-8")).semantics()
    assert {**ours, "name": ""} == {**shipped, "name": ""}


def test_no_name_and_no_path_is_taken_for_a_string():
    names = [*shipped_formats(), *shipped_atoms(), *template_files()]
    paths = ["mine.fmt", "a+b.fmt", "E2M3sUE4M4.fmt", "dir/E2M3sUE4M4", "C:\\NF4sUE4M4", "./NF4^0"]
    words = ["", "-", "nf4", "NF4", "E2M5", "MyFormatsGood", "my^file", "|", "NF4 sUE4M4", "NF4|\n"]
    assert len(names) > 10
    for text in (*names, *paths, *words):
        assert not is_sop(text), text


@pytest.mark.parametrize("string", ["nf4|dd4", "NF9|XsY", "E2M3sUE4M44", "NF4^", "NF4.Wr", "-NF4+"])
def test_a_faulty_string_is_still_taken_for_one(string):
    assert is_sop(string)


@pytest.mark.parametrize(
    ("string", "code", "part", "hint"),
    [
        ("NF9sUE4M4", "E0202", "NF9", "did you mean 'NF5'?"),
        ("NF4|BOF5-SsUE4M3", "E0202", "BOF5-S", "did you mean 'BOF4-S'?"),
        ("FP32sUE4M4", "E0202", "FP32", None),
        ("E9M3sUE4M4", "E0202", "E9M3", "did you mean 'E4M3'?"),
        ("NF4+NF9.Wr", "E0202", "NF9", "did you mean 'NF5'?"),
        ("NF4sUE4M44", "E0203", "UE4M44", "did you mean 'UE4M4'?"),
        ("NF4sINT8", "E0203", "INT8", None),
        ("NF4|DD4sUE4M4", "E0402", "UE4M4", "take UE4M3 (8 bits) or S1E5M5 (12 bits)"),
        ("NF4|SH4|AF4sUE4M3", "E0402", "UE4M3", "take S0E5M5 (12 bits)"),
        ("NF4|NF4sUE4M3", "E0208", "NF4", "keep one of them"),
        ("NF4.Wr.Wr", "E0208", ".Wr", None),
    ],
)
def test_a_fault_of_meaning_points_at_its_part(string, code, part, hint):
    with pytest.raises(FormatError) as caught:
        parse_sop(string)
    (fault,) = caught.value.diagnostics
    assert (fault.code, fault.hint) == (code, hint)
    assert string[fault.span.column - 1 : fault.span.end_column - 1] == part
    assert f"<SOP string>:1:{fault.span.column}" in str(caught.value)


@pytest.mark.parametrize(
    ("string", "column", "expected"),
    [
        ("", 1, "an atom"),
        ("NF4|", 5, "an atom"),
        ("|NF4", 1, "an atom"),
        ("NF4^sUE4M4", 5, "^32, or ^0"),
        ("NF4^x", 5, "^32, or ^0"),
        ("NF4^-1", 5, "^32, or ^0"),
        ("NF4^16.5", 7, "'s' and a scale word"),
        ("NF4^16^16", 7, "'s' and a scale word"),
        ("NF4sUE4M4^16", 10, "'+knap0.10'"),
        ("NF4sUE4M4|SH4", 10, "'.Wr'"),
        ("NF4^16s", 7, "UE4M4"),
        ("NF4+", 5, "an atom"),
        ("NF4+knap", 9, "+knap0.10"),
        ("NF4+NF5+NF5", 8, "a scale word"),
        ("NF4.Wr+knap0.1", 7, "'.OPQ'"),
        ("NF4.OPQ.Wr ", 11, "the end"),
        ("NF4 sUE4M4", 4, "'|' and an atom"),
    ],
)
def test_what_cannot_stand_in_a_string_is_pointed_at(string, column, expected):
    with pytest.raises(FormatError) as caught:
        parse_sop(string)
    (fault,) = caught.value.diagnostics
    assert (fault.code, fault.span.line, fault.span.column) == ("E0101", 1, column)
    assert expected in fault.expected


def test_every_fault_of_a_string_is_reported_at_once():
    with pytest.raises(FormatError) as caught:
        parse_sop("NF9|HIF9sUE44+NF5sQ.Wr.Wr!")
    assert [d.code for d in caught.value.diagnostics] == [
        "E0202",
        "E0202",
        "E0203",
        "E0203",
        "E0208",
        "E0101",
    ]


def test_a_long_string_is_refused():
    with pytest.raises(FormatError, match="E0105"):
        parse_sop("NF4|" * 100)


def test_the_nodes_of_a_string_stand_in_the_string():
    string = "NF4|DD4^32sUE4M3"
    (declaration,) = parse_sop(string).formats
    places = {
        "block": next(c for c in declaration.clauses if isinstance(c, Setting)).value.span,
        "grid": [c for c in declaration.clauses if isinstance(c, GridDecl)][1].atom.kind.span,
    }
    assert {k: string[s.column - 1 : s.end_column - 1] for k, s in places.items()} == {
        "block": "32",
        "grid": "DD4",
    }


atoms = st.lists(
    st.builds(
        "".join,
        st.tuples(
            st.sampled_from(["", "", "-"]),
            st.sampled_from(["NF4", "SH4", "BOF4-S", "Split87", "IQ4_NL", "HIF7", "E2M1", "INT4"]),
        ),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda atom: atom,
).map("|".join)
words = st.sampled_from(["", "sUE4M3", "sUE4M4", "sS1E5M5", "sS0E5M5", "sUE8M0", "sFP32", "sE4M3"])
whole = st.builds("".join, st.tuples(atoms, st.sampled_from(["", "^0", "^16", "^128"]), words))
promotions = st.one_of(st.sampled_from(["", "+knap0.10", "+knap1"]), whole.map("+".__add__))
sides = st.sampled_from(["", ".OPQ", ".OPQ0.9", ".OPQ3", ".Wr", ".Wr0.01", ".OPQ.Wr", ".Wr.OPQ0.5"])
strings = st.builds("".join, st.tuples(whole, promotions, sides)).filter(lambda s: len(s) <= 200)


@settings(max_examples=300, deadline=None)
@given(strings)
def test_a_string_of_the_notation_reads_back_or_lacks_select_bits(string):
    file = file_or_codes(string)
    if isinstance(file, File):
        assert parse(print_file(file)) == file
        assert file.formats[0].title == Text(string)
    else:
        assert file == {"E0402"}


def file_or_codes(string: str) -> File | set[str]:
    try:
        return parse_sop(string)
    except FormatError as error:
        return {fault.code for fault in error.diagnostics}


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=40), st.text("NF4|^s+.-UEM0kanpOPQWr", max_size=40)))
def test_no_text_is_too_strange_for_a_string(text):
    assert is_sop(text) in (True, False)
    try:
        parse_sop(text)
    except FormatError as error:
        spans = [fault.span for fault in error.diagnostics]
    else:
        spans = []
    assert all(1 <= s.column < s.end_column <= len(text) + 2 for s in spans)


def test_atoms_of_all_pairs_find_their_select_bit():
    names = ("NF4", "SH4", "BOF4", "BOF4-S", "AF4", "IQ4_NL", "HIF7", "HIF8", "E2M1", "INT4")
    for one, other in itertools.permutations(names, 2):
        clauses = clauses_of(f"{one}|{other}sUE4M3")
        assert sum(clause.startswith("grid ") for clause in clauses) == 2
        assert sum("select 1 bit at scale.meta" in clause for clause in clauses) == 1
