"""``torch.ops.fmtc``: what its formats are called, and what it refuses."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import fmtc
import fmtc.ops
import pytest
import torch
from fmtc import Format, FormatError, RefusedInput, UnknownFormat
from torch import Tensor
from torch_cases import MINE, OPS, gaussian, same_bits

# -- keys ---------------------------------------------------------------------------------------


def test_a_shipped_format_is_called_by_its_name() -> None:
    fmt = fmtc.load("po2_nf4")
    assert fmtc.ops.register("po2_nf4") == fmtc.ops.register(fmt) == "po2_nf4"
    assert fmtc.ops.register(fmt.source) == "po2_nf4"
    assert fmtc.ops.format_of("po2_nf4") == fmt


def test_a_format_of_ones_own_is_called_by_its_hash(tmp_path: Path) -> None:
    fmt = fmtc.compile_text(MINE)
    file = tmp_path / "mine.fmt"
    file.write_text(MINE)
    keys = {fmtc.ops.register(form) for form in (fmt, Format.of(fmt), MINE, file, str(file))}
    assert keys == {fmt.content_hash}
    assert fmtc.ops.register(fmt.content_hash) == fmt.content_hash
    x = gaussian(3, 40)
    assert same_bits(
        OPS.fake_quantize(x, fmt.content_hash), Format.of(fmt).quantize(x).dequantize()
    )


def test_another_format_of_a_shipped_name_is_another_format() -> None:
    other = fmtc.compile_text(MINE.replace("mine", "nvfp4"))
    key = fmtc.ops.register(other)
    assert key == other.content_hash
    assert fmtc.ops.format_of("nvfp4") != fmtc.ops.format_of(key) == other


def test_a_sop_string_is_registered_too() -> None:
    text = "NF4|E2M1^16sE4M3"
    key = fmtc.ops.register(text)
    x = gaussian(2, 64)
    assert same_bits(OPS.fake_quantize(x, key), fmtc.load(text).quantize(x).dequantize())


@pytest.mark.usefixtures("fresh")
def test_a_format_of_ones_own_works_in_a_compiled_graph() -> None:
    key = fmtc.ops.register(MINE)
    compiled = torch.compile(
        lambda x: OPS.fake_quantize(x, key), fullgraph=True, backend="aot_eager"
    )
    x = gaussian(2, 64)
    assert same_bits(compiled(x), OPS.fake_quantize(x, key))


# -- errors -------------------------------------------------------------------------------------


def test_an_unknown_key_names_the_way_out() -> None:
    x = gaussian(2, 64)
    with pytest.raises(UnknownFormat) as caught:
        OPS.encode(x, "nvpf4")
    message = str(caught.value)
    assert "'nvpf4'" in message
    assert "did you mean 'nvfp4'?" in message
    assert "fmtc.ops.register(" in message
    for call in (
        lambda: OPS.fake_quantize(x, "0" * 64),
        lambda: OPS.decode([x], "0" * 64, [2, 64], torch.float32),
        lambda: OPS.linear(x, [x], "0" * 64, [2, 64], "float32"),
        lambda: OPS.encode(x.to("meta"), "0" * 64),
    ):
        with pytest.raises(UnknownFormat, match=re.escape("fmtc.ops.register(")):
            call()


@pytest.mark.usefixtures("fresh")
def test_an_unknown_key_is_named_by_the_compiler_too() -> None:
    compiled = torch.compile(
        lambda x: OPS.fake_quantize(x, "no_such_format"), fullgraph=True, backend="aot_eager"
    )
    with pytest.raises(torch._dynamo.exc.TorchRuntimeError, match="no_such_format"):
        compiled(gaussian(2, 64))


def test_what_cannot_be_registered_is_an_error_of_loading() -> None:
    with pytest.raises(UnknownFormat, match="no shipped format is called 'nvpf4'"):
        fmtc.ops.register("nvpf4")
    with pytest.raises(FormatError, match="e9q9"):
        fmtc.ops.register("format broken { block 16  grid e9q9  scale e4m3 }")


def test_what_the_policies_refuse_is_refused_with_its_place() -> None:
    x = gaussian(2, 64)
    x[1, 3] = torch.nan
    mine = fmtc.ops.register(MINE)
    for operator in (OPS.encode, OPS.fake_quantize):
        with pytest.raises(RefusedInput, match=re.escape("a NaN at [1, 3]")):
            operator(x, mine)
    with pytest.raises(RefusedInput, match="records of 32"):
        OPS.encode(gaussian(2, 33), "q4_0")


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.float8_e4m3fn], ids=str)
def test_what_holds_no_floats_is_a_type_error(dtype: torch.dtype) -> None:
    x = torch.zeros(2, 64).to(dtype)
    streams = OPS.encode(gaussian(2, 64), "nf4")
    with pytest.raises(TypeError, match=str(dtype).removeprefix("torch.")):
        OPS.encode(x, "nf4")
    with pytest.raises(TypeError, match=str(dtype)):
        OPS.decode(streams, "nf4", [2, 64], dtype)
    with pytest.raises(TypeError, match=str(dtype)):
        OPS.linear(x, streams, "nf4", [2, 64], "float32")


def test_streams_that_do_not_fit_are_refused_by_name() -> None:
    streams = OPS.encode(gaussian(4, 64), "po2_nf4")
    codes, scales, level = streams

    def decode(given: list[Tensor], shape: tuple[int, ...] = (4, 64)) -> Tensor:
        return OPS.decode(given, "po2_nf4", shape, torch.float32)

    with pytest.raises(ValueError, match=r"3 tensors \(codes, scales, level\), here are 2"):
        decode([codes, scales])
    with pytest.raises(ValueError, match=r"'codes' of \[4, 66\] elements in 'po2_nf4' is uint8"):
        decode(streams, (4, 66))
    with pytest.raises(ValueError, match=r"'scales' .* uint8 \[4, 4\], not torch\.uint8 \[3, 4\]"):
        decode([codes, scales[:3], level])
    with pytest.raises(ValueError, match=r"'codes' .* not torch\.int8"):
        decode([codes.view(torch.int8), scales, level])
    with pytest.raises(ValueError, match="'level'"):
        decode([codes, scales, level[:, :2]])


def test_a_damaged_level_or_side_is_refused() -> None:
    codes, scales, level = OPS.encode(gaussian(4, 64), "sop_pair")
    broken = torch.tensor([[0.75]]).view(torch.uint8)
    with pytest.raises(ValueError, match=r"level 0\.75 .* no power of two"):
        OPS.decode([codes, scales, broken], "sop_pair", [4, 64], torch.float32)
    assert level.view(torch.float32).item() > 0
    streams = OPS.encode(gaussian(4, 64), "nf4_dd4_opq_wr")
    place = fmtc.ops.stream_names("nf4_dd4_opq_wr").index("wr.index")
    streams[place] = streams[place][:, :-2]
    with pytest.raises(ValueError, match=r"'wr\.index' is damaged"):
        OPS.decode(streams, "nf4_dd4_opq_wr", [4, 64], torch.float32)


def test_an_input_that_does_not_fit_the_weight_is_refused() -> None:
    streams = OPS.encode(gaussian(4, 64), "nf4")
    for x, shape in (
        (gaussian(2, 63), [4, 64]),
        (torch.tensor(1.0), [4, 64]),
        (gaussian(2, 64), [4, 1, 64]),
        (gaussian(2, 64), [64]),
    ):
        with pytest.raises(ValueError, match=re.escape(f"a weight of {shape} is not")):
            OPS.linear(x, streams, "nf4", shape, "float32")
    with pytest.raises(ValueError, match="no activations 'int3'; there are float32, int8, hif8"):
        OPS.linear(gaussian(2, 64), streams, "nf4", [4, 64], "int3")


def test_without_torch_the_line_that_installs_it_is_shown() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import fmtc, importlib\n"
        "for name in ('fmtc.ops', 'fmtc.nn'):\n"
        "    try: importlib.import_module(name)\n"
        "    except fmtc.MissingPackage as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.count("pip install 'fmtc[torch]'") == 2
