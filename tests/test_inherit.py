"""Imports, atoms and ``extends``: what merges into what, who sees which name, and the limits."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from fmtc import FormatError
from fmtc.compiler.inherit import (
    MAX_DEPTH,
    MAX_FILES,
    MAX_ROW,
    Flat,
    Loaded,
    Loader,
    LoadError,
    flatten,
    self_contained,
)
from fmtc.compiler.report import Report
from fmtc.compiler.resolve import compile_text
from fmtc.dsl import Diagnostic, parse, print_file

PAIR = "codebook 2 { -1, 0, 0.5, 1 }"
BASE = """
format base "The base" {
  cite   "first"
  block  32
  grid   a = codebook 2 { -1, 0, 0.5, 1 }
  grid   b = codebook 2 { -1, -0.5, 0, 1 }
  scale  e4m3 { rule absmax  tensor fp32  container 12 }
  select 1 bit at scale.sign { 0: a, 1: b }
  tie    down
}
"""


def memory(files: Mapping[str, str]) -> Loader:
    """Reads the files of a dictionary; a reference is a key of it, from wherever it is made."""

    def load(reference: str, _kind: str, _origin: str) -> Loaded:
        if reference not in files:
            raise LoadError(f"there is no '{reference}'")
        return Loaded(files[reference], reference, reference)

    return load


def flat_of(text: str, **files: str) -> Flat:
    report = Report()
    flat = flatten(parse(text), "entry", memory(files), report)
    assert report.diagnostics == []
    assert flat is not None
    return flat


def source_of(text: str, **files: str) -> str:
    return print_file(self_contained(flat_of(text, **files)))


def faults_of(text: str, **files: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(FormatError) as caught:
        compile_text(text, "entry", memory(files))
    return caught.value.diagnostics


def the_fault_of(text: str, **files: str) -> Diagnostic:
    faults = faults_of(text, **files)
    assert len(faults) == 1, [fault.message for fault in faults]
    return faults[0]


def body(source: str) -> list[str]:
    """The clauses of a printed format, blanks squeezed."""
    lines = [" ".join(line.split()) for line in source.splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith("format "))
    return lines[start + 1 : -1]


# -- extends: what a variant says, and what it takes over ----------------------------------


def test_a_variant_that_says_nothing_is_its_base_under_another_name() -> None:
    source = source_of('format v extends "base" { }', base=BASE)
    assert source.startswith('format v "The base" {')
    assert body(source) == body(print_file(parse(BASE)))


def test_a_setting_takes_the_place_of_the_base_s() -> None:
    source = source_of('format v "Mine" extends "base" { tie up  block 16  nan zero }', base=BASE)
    assert source.startswith('format v "Mine" {')
    clauses = body(source)
    assert clauses[1] == "block 16"
    assert clauses[-2:] == ["tie up", "nan zero"]
    assert len(clauses) == len(body(print_file(parse(BASE)))) + 1


def test_one_grid_of_a_variant_takes_the_place_of_all() -> None:
    clauses = body(source_of('format v extends "base" { grid a = e1m1  grid b = e2m0 }', base=BASE))
    assert [line for line in clauses if line.startswith("grid")] == [
        "grid a = e1m1",
        "grid b = e2m0",
    ]
    assert clauses.index("grid a = e1m1") == 2


def test_the_settings_of_a_scale_are_merged_and_its_word_is_the_variant_s() -> None:
    source = source_of('format v extends "base" { scale e5m2 { rule argmax  min 1 } }', base=BASE)
    assert "scale e5m2 { rule argmax tensor fp32 container 12 min 1 }" in body(source)
    bare = source_of('format v extends "base" { scale e5m2 }', base=BASE)
    assert "scale e5m2 { rule absmax tensor fp32 container 12 }" in body(bare)


def test_the_body_behind_as_is_kept_or_replaced_whole() -> None:
    base = (
        f"format base {{ block 8  grid a = {PAIR}"
        "  scale fp32 { over row } as { block 8  grid e2m1  scale fp16 } }"
    )
    kept = source_of('format v extends "base" { scale fp32 { over tensor } }', base=base)
    assert "over tensor" in kept
    assert "grid e2m1" in body(kept)
    other = source_of(
        'format v extends "base" { scale fp32 as { block 4  grid e3m2  scale bf16 } }', base=base
    )
    assert "over row" in other
    assert "e2m1" not in other
    assert "grid e3m2" in body(other)


def test_a_zero_of_another_kind_takes_over_no_settings() -> None:
    base = (
        "format base { block 8  grid a = int 4 { range unsigned }"
        "  scale fp16 { rule range }  zero minimum { word fp16  sign negated } }"
    )
    same = source_of('format v extends "base" { zero minimum { word bf16 } }', base=base)
    assert "zero minimum { word bf16 sign negated }" in body(same)
    other = source_of('format v extends "base" { zero point { bits 8 } }', base=base)
    assert "zero point { bits 8 }" in body(other)


def test_sides_are_replaced_by_kind_and_records_whole() -> None:
    base = (
        f"format base {{ block 8  grid a = {PAIR}  scale fp16  side opq {{ quantile 0.9 }}"
        "  record 64 { scales, codes } }"
    )
    text = (
        'format v extends "base" { side wr  side opq { value fp16 }  record 32 { codes, scales } }'
    )
    clauses = body(source_of(text, base=base))
    assert clauses[3:] == [
        "side opq { value fp16 }", "record 32 { codes, scales }", "side wr",
    ]  # fmt: skip


def test_citations_add_up_base_first() -> None:
    clauses = body(source_of('format v extends "base" { cite "second"  cite "third" }', base=BASE))
    assert clauses[:3] == ['cite "first"', 'cite "second"', 'cite "third"']
    silent = BASE.replace('  cite   "first"\n', "")
    assert body(source_of('format v extends "base" { cite "own" }', base=silent))[0] == 'cite "own"'


def test_variants_of_variants_are_followed_to_the_end() -> None:
    files = {
        "base": BASE,
        "middle": 'format middle "Middle" extends "base" { cite "m"  tie up  block 64 }',
    }
    source = source_of('format v extends "middle" { block 8 }', **files)
    assert source.startswith('format v "Middle" {')
    assert {"block 8", "tie up", 'cite "first"', 'cite "m"'} <= set(body(source))


def test_what_a_variant_says_twice_is_still_a_fault() -> None:
    fault = the_fault_of('format v extends "base" { block 8  block 16 }', base=BASE)
    assert (fault.code, fault.span.column) == ("E0208", 36)


def test_comments_of_the_variant_and_of_inherited_clauses_are_kept() -> None:
    base = BASE.replace("  tie    down", "  # ties go down\n  tie    down")
    source = source_of('# my own\nformat v extends "base" {\n # why\n block 8 }', base=base)
    assert source.startswith("# my own\nformat v")
    assert "# why" in source
    assert "# ties go down" in source


# -- atoms: who sees which, and under what name --------------------------------------------


def test_an_atom_is_used_like_a_built_in_kind() -> None:
    text = f"atom mine = {PAIR}  format f {{ block 8  grid mine  scale e4m3 }}"
    fmt = compile_text(text)
    plain = compile_text(f"format f {{ block 8  grid mine = {PAIR}  scale e4m3 }}")
    assert fmt.grids[0].values == plain.grids[0].values
    assert fmt == plain


def test_an_imported_atom_is_that_of_the_file() -> None:
    text = 'import "lib"  format f { block 8  grid g = mine  scale e4m3 }'
    fmt = compile_text(text, "entry", memory({"lib": f'atom mine "T" = {PAIR}'}))
    assert [float(v) for v in fmt.grids[0].numbers] == [-1, 0, 0.5, 1]


def test_the_source_needs_no_other_file_and_means_the_same() -> None:
    files = {
        "lib": f"atom mine = {PAIR}  atom spare = int 2",
        "base": 'import "lib"  ' + BASE.replace("codebook 2 { -1, -0.5, 0, 1 }", "mine"),
    }
    text = 'import "lib"  format v extends "base" { block 8 }'
    fmt = compile_text(text, "entry", memory(files))
    assert "import" not in fmt.source
    assert "extends" not in fmt.source
    assert "spare" not in fmt.source
    again = compile_text(fmt.source)
    assert again.content_hash == fmt.content_hash
    assert again.source == fmt.source


def test_an_atom_file_uses_what_it_imports_and_does_not_pass_it_on() -> None:
    files = {
        "inner": f"atom inner = {PAIR}",
        "outer": 'import "inner"  atom outer = inner { times 2 }',
    }
    flat = flat_of('import "outer"  format f { block 8  grid outer  scale e4m3 }', **files)
    assert list(flat.atoms) == ["inner", "outer"]
    fault = the_fault_of('import "outer"  format f { block 8  grid inner  scale e4m3 }', **files)
    assert (fault.code, fault.span.column) == ("E0202", 42)


def test_a_hidden_atom_never_captures_a_name_of_the_entry_file() -> None:
    files = {
        "inner": f"atom level = {PAIR}",
        "outer": 'import "inner"  atom outer = level { times 2 }',
    }
    text = (
        'import "outer"  atom level = codebook 2 { -2, 0, 1, 2 }'
        "  format f { block 8  grid outer  grid level  scale e4m3"
        "  select 1 bit at field { 0: outer, 1: level } }"
    )
    flat = flat_of(text, **files)
    assert flat.atoms["outer"].atom.kind.text == "level_2"
    assert list(flat.atoms) == ["level_2", "outer", "level"]
    source = print_file(self_contained(flat))
    assert "atom level_2 = codebook 2 { -1, 0, 0.5, 1 }" in source
    assert "atom level = codebook 2 { -2, 0, 1, 2 }" in source
    assert source_of(source) == source


def test_a_base_keeps_its_own_atoms_where_the_variant_has_others_of_the_name() -> None:
    files = {"base": f"atom g = {PAIR}  format base {{ block 8  grid one = g  scale e4m3 }}"}
    text = 'atom g = codebook 2 { -3, 0, 1, 3 }  format v extends "base" { tie up }'
    flat = flat_of(text, **files)
    kinds = [c.atom.kind.text for c in flat.declaration.clauses if hasattr(c, "atom")]
    assert kinds == ["g_2"]
    fmt = compile_text(text, "entry", memory(files))
    assert [float(v) for v in fmt.grids[0].numbers] == [-1, 0, 0.5, 1]


def test_an_earlier_grid_hides_an_atom_of_its_name() -> None:
    text = (
        f"atom a = {PAIR}  format f {{ block 8  grid a = codebook 2 {{ -2, 0, 1, 2 }}"
        "  grid b = a { times 2 }  scale e4m3  select 1 bit at field { 0: a, 1: b } }"
    )
    assert "atom" not in source_of(text)


def test_atoms_inside_the_body_behind_as_are_seen() -> None:
    text = (
        f"atom a = {PAIR}  format f {{ block 8  grid int 2"
        "  scale fp32 as { block 8  grid a  scale fp16 } }"
    ).replace("grid int 2", "grid i = int 2")
    assert source_of(text).startswith("atom a = codebook 2")


def test_a_file_imported_on_two_ways_is_one_file() -> None:
    files = {
        "lib": f"atom a = {PAIR}",
        "base": 'import "lib"  format base { block 8  grid a  scale e4m3 }',
    }
    flat = flat_of('import "lib"  import "lib"  format v extends "base" { }', **files)
    assert list(flat.atoms) == ["a"]


def test_two_atoms_of_one_name_are_a_fault_where_the_second_comes_in() -> None:
    files = {"one": f"atom a = {PAIR}", "two": "atom a = int 2"}
    entry = "format f { block 8  grid a  scale e4m3 }"
    fault = the_fault_of(f'import "one"  import "two"  {entry}', **files)
    assert (fault.code, fault.span.column) == ("E0208", 22)
    fault = the_fault_of(f'import "one"  atom a = int 2  {entry}', **files)
    assert (fault.code, fault.span.column) == ("E0208", 20)


@pytest.mark.parametrize("name", ["codebook", "int", "hif7", "hif8", "e2m1", "ue4m4", "fp16"])
def test_a_built_in_kind_cannot_be_shadowed(name: str) -> None:
    fault = the_fault_of(f"atom {name} = {PAIR}  format f {{ block 8  grid e2m1  scale e4m3 }}")
    assert (fault.code, fault.span.column) == ("E0504", 6)


def test_an_atom_made_of_itself_is_a_fault() -> None:
    rest = "format f { block 8  grid e2m1  scale e4m3 }"
    assert the_fault_of(f"atom a = a {rest}").code == "E0503"
    assert the_fault_of(f"atom a = b  atom b = c  atom c = a {rest}").code == "E0503"


def test_a_row_of_atoms_has_an_end() -> None:
    def row(length: int, *, backwards: bool) -> str:
        made = [f"atom a{i} = a{i - 1} {{ times 1 }}" for i in range(1, length)]
        made = [f"atom a0 = {PAIR}", *made]
        atoms = "\n".join(reversed(made) if backwards else made)
        return f"{atoms}\nformat f {{ block 8  grid a{length - 1}  scale e4m3 }}"

    for backwards in (False, True):
        assert len(flat_of(row(MAX_ROW, backwards=backwards)).atoms) == MAX_ROW
        for length in (MAX_ROW + 1, 5000):
            report = Report()
            assert flatten(parse(row(length, backwards=backwards)), "e", None, report) is None
            assert [fault.code for fault in report.diagnostics] == ["E0503"]


# -- files that cannot be used -------------------------------------------------------------


def test_without_a_loader_no_file_can_be_named() -> None:
    for text in ('import "a"  format f { }', 'format f extends "a" { }'):
        with pytest.raises(FormatError) as caught:
            compile_text(text)
        assert [fault.code for fault in caught.value.diagnostics] == ["E0501"]


def test_a_fault_in_a_named_file_is_told_with_both_places() -> None:
    files = {"lib": "atom a = int 2\n\natom b = codebook 2 { 1, 2 \n"}
    fault = the_fault_of('import "lib"  format f { block 8  grid a  scale e4m3 }', **files)
    assert (fault.code, fault.span.line, fault.span.column) == ("E0501", 1, 8)
    assert fault.message.startswith("lib:3:")


def test_a_wrong_value_in_an_imported_atom_is_told_with_both_places() -> None:
    files = {"lib": "\n  atom a = codebook 2 { -1, 0, 1 }"}
    fault = the_fault_of('import "lib"  format f { block 8  grid a  scale e4m3 }', **files)
    assert fault.message == "lib:2:12: a 2-bit codebook has 4 values, here are 3"
    assert (fault.code, fault.span.line, fault.span.column) == ("E0304", 1, 8)


def test_an_inherited_clause_that_no_longer_fits_is_told_with_both_places() -> None:
    faults = faults_of('format v extends "base" { host hif7 }', base=BASE)
    assert [(fault.code, fault.message) for fault in faults] == [
        ("E0303", "base:5:34: hif7 has no word for 0.5"),
        ("E0303", "base:6:31: hif7 has no word for -0.5"),
    ]
    assert {(fault.span.line, fault.span.column) for fault in faults} == {(1, 18)}


def test_a_missing_file_of_a_named_file_is_told_with_both_places() -> None:
    files = {"base": 'format base extends "nosuch" { }'}
    fault = the_fault_of('format v extends "base" { }', **files)
    assert (fault.code, fault.span.column) == ("E0501", 18)
    assert fault.message == "base:1:21: there is no 'nosuch'"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('import "format"  format f { }', "'format' declares no atom"),
        ('format f extends "atoms" { }', "'atoms' holds no format"),
        ('format f extends "both" { }', "'both' holds 2 formats"),
        ('import "empty"  format f { }', "'empty' declares no atom"),
    ],
)
def test_a_file_must_hold_what_it_is_named_for(text: str, words: str) -> None:
    files = {"format": BASE, "atoms": f"atom a = {PAIR}", "both": BASE + BASE, "empty": ""}
    fault = the_fault_of(text, **files)
    assert (fault.code, fault.message) == ("E0501", words)


def test_files_that_lead_in_a_circle_are_refused() -> None:
    files = {
        "a": 'import "b"  atom a = b',
        "b": 'import "c"  atom b = c',
        "c": 'import "a"  atom c = a',
    }
    fault = the_fault_of('import "a"  format f { }', **files)
    assert fault.code == "E0503"
    assert "a -> b -> c -> a" in fault.message
    assert "entry -> entry" in the_fault_of('format f extends "entry" { }', entry=BASE).message


def test_the_way_to_a_file_has_a_limit() -> None:
    def files(length: int) -> dict[str, str]:
        made = {f"f{i}": f'format x extends "f{i + 1}" {{ }}' for i in range(1, length)}
        return {**made, f"f{length}": BASE}

    assert "block 32" in body(source_of('format v extends "f1" { }', **files(MAX_DEPTH)))
    fault = the_fault_of('format v extends "f1" { }', **files(MAX_DEPTH + 1))
    assert fault.code == "E0503"
    assert fault.message.startswith(f"f{MAX_DEPTH}:1:18: the way to 'f{MAX_DEPTH + 1}'")


def test_the_number_of_files_has_a_limit() -> None:
    files = {f"f{i}": f"atom a{i} = int 2" for i in range(MAX_FILES)}

    def text(count: int) -> str:
        imports = "\n".join(f'import "f{i}"' for i in range(count))
        return f"{imports}\nformat f {{ block 8  grid a0  scale e4m3 }}"

    assert len(flat_of(text(MAX_FILES - 1), **files).atoms) == MAX_FILES - 1
    fault = the_fault_of(text(MAX_FILES), **files)
    assert (fault.code, fault.span.line) == ("E0503", MAX_FILES)


def test_every_missing_file_is_reported_at_once() -> None:
    faults = faults_of('import "x"  import "y"  format f extends "z" { }')
    assert [(fault.code, fault.span.column) for fault in faults] == [
        ("E0501", 8), ("E0501", 20), ("E0501", 42),
    ]  # fmt: skip


def test_a_library_of_atoms_is_no_format() -> None:
    fault = the_fault_of(f"atom a = {PAIR}")
    assert fault.code == "E0201"
    assert "only atoms" in fault.message
