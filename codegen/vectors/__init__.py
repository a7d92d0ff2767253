"""Golden vectors: JSON lines for software, ``$readmemh`` files for the Verilog test benches.

Every number here comes from the reference encoder and decoder or from exact rationals,
never from the text of another back end.
"""

from __future__ import annotations

from ...compiler.describe import datasheet
from ...compiler.format import Format
from ..design import design_of
from ..render import provenance, render
from .decode import decode_lines
from .encode import encode_lines
from .memory import decoder_memory, dot_memory
from .tensors import tensor_lines


def emit(fmt: Format) -> dict[str, str]:
    """The conformance pack of a format: relative file name -> text.

    Every format has ``README.md``, the schema, and ``<fmt>_tensors.jsonl``. A plain one also has
    its scale words and rows, ``<fmt>_decode.jsonl`` and ``<fmt>_encode.jsonl``, and for the test
    benches ``<fmt>_decoder.memh`` and ``<fmt>_dot.memh``.
    """
    files = {
        f"{fmt.name}_README.md": render(
            "vectors",
            "readme.md.j2",
            name=fmt.name,
            provenance=provenance(fmt),
            words=fmt.is_plain,
            streams=datasheet(fmt)["streams"],
        ),
        f"{fmt.name}_tensors.jsonl": tensor_lines(fmt),
    }
    if not fmt.is_plain:
        return files
    return files | {
        f"{fmt.name}_decode.jsonl": decode_lines(fmt),
        f"{fmt.name}_encode.jsonl": encode_lines(fmt),
        f"{fmt.name}_decoder.memh": decoder_memory(fmt),
        f"{fmt.name}_dot.memh": dot_memory(design_of(fmt)),
    }
