from __future__ import annotations

import pytest
from fmtc.runtime.plan import Unit, units_of
from hypothesis import given
from hypothesis import strategies as st

LLAMA = tuple(
    f"model.layers.{layer}.{module}.weight"
    for layer in (0, 1, 10, 2)  # as a file that is sorted by text has them
    for module in (
        "mlp.down_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "self_attn.k_proj",
        "self_attn.o_proj",
        "self_attn.q_proj",
        "self_attn.v_proj",
    )
)


def square(names: tuple[str, ...], width: int = 8) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(names, (4, width))


def names_of(units: tuple[Unit, ...]) -> list[str]:
    return [unit.name for unit in units]


def test_q_k_v_and_gate_up_are_units_and_the_others_stand_alone() -> None:
    units = units_of(LLAMA, square(LLAMA))
    assert [unit.members for unit in units[:4]] == [
        ("model.layers.0.mlp.down_proj.weight",),
        ("model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        (
            "model.layers.0.self_attn.q_proj.weight",
            "model.layers.0.self_attn.k_proj.weight",
            "model.layers.0.self_attn.v_proj.weight",
        ),
        ("model.layers.0.self_attn.o_proj.weight",),
    ]
    assert units[2].name == "model.layers.0.self_attn.q_proj+k_proj+v_proj.weight"


def test_layer_2_comes_before_layer_10() -> None:
    layers = [int(name.split(".")[2]) for name in names_of(units_of(LLAMA, square(LLAMA)))]
    assert layers == [layer for layer in (0, 1, 2, 10) for _ in range(4)]


@given(st.permutations(LLAMA), st.booleans())
def test_every_matrix_is_in_one_unit_whatever_the_order(names: list[str], fuse: bool) -> None:
    units = units_of(names, square(LLAMA), fuse)
    members = [name for unit in units for name in unit.members]
    assert sorted(members) == sorted(LLAMA)
    assert len(set(names_of(units))) == len(units) == (16 if fuse else 28)
    assert {frozenset(u.members) for u in units} == {
        frozenset(u.members) for u in units_of(LLAMA, square(LLAMA), fuse)
    }


@pytest.mark.parametrize(
    "members",
    [
        ("blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"),
        ("blk.3.ffn_gate.weight", "blk.3.ffn_up.weight"),
        (
            "encoder.layer.1.attention.self.query.weight",
            "encoder.layer.1.attention.self.key.weight",
        ),
        ("model.layers.0.mlp.experts.7.w1.weight", "model.layers.0.mlp.experts.7.w3.weight"),
        ("layers.0.attention.wq", "layers.0.attention.wk", "layers.0.attention.wv"),
    ],
    ids=lambda members: members[0],
)
def test_names_of_other_families_are_known(members: tuple[str, ...]) -> None:
    (unit,) = units_of(tuple(reversed(members)), square(members))
    assert unit.members == members


def test_experts_are_units_of_their_own() -> None:
    names = tuple(
        f"layers.0.mlp.experts.{expert}.{part}.weight"
        for expert in range(3)
        for part in ("w1", "w2", "w3")
    )
    units = units_of(names, square(names))
    assert [len(unit.members) for unit in units] == [2, 1, 2, 1, 2, 1]
    assert all(len({name.split(".")[4] for name in unit.members}) == 1 for unit in units)


def test_matrices_that_do_not_read_the_same_input_stay_apart() -> None:
    shapes = {"m.gate_proj.weight": (4, 8), "m.up_proj.weight": (4, 16)}
    assert len(units_of(tuple(shapes), shapes)) == 2
    cross = tuple(f"decoder.0.encoder_attn.{part}_proj.weight" for part in "qkv")
    assert len(units_of(cross, square(cross))) == 3
    parents = ("a.q_proj.weight", "b.k_proj.weight")
    assert len(units_of(parents, square(parents))) == 2


def test_unknown_names_are_units_of_one_matrix() -> None:
    names = ("foo", "net.2.weight", "net.10.weight", "net.1.weight")
    units = units_of(names, square(names))
    assert names_of(units) == ["foo", "net.1.weight", "net.2.weight", "net.10.weight"]


def test_a_name_that_is_listed_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'b\.weight' is listed twice"):
        units_of(("a.weight", "b.weight", "b.weight"), square(("a.weight", "b.weight")))
