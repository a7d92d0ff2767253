"""ml_dtypes' casts: elements alone, unpacked and without scales."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..measure import Contender
from ..work import Peer, Work

#: Format -> the type of ml_dtypes with the format's elements.
ELEMENTS = {
    "mxfp4": "float4_e2m1fn",
    "nvfp4": "float4_e2m1fn",
    "e2m3_ue4m4": "float6_e2m3fn",
    "mxfp8_e4m3": "float8_e4m3fn",
}


class MlDtypes(Peer):
    """``astype`` to and from its types."""

    name = "ml_dtypes"

    def encode(self, work: Work) -> Iterator[Contender]:
        """A cast from float32."""
        element = ELEMENTS.get(work.format)
        if element is not None:
            import ml_dtypes

            kind, few = getattr(ml_dtypes, element), work.few
            yield Contender(
                f"ml_dtypes {element} cast, no scales", few.size, lambda: few.astype(kind)
            )

    def decode(self, work: Work) -> Iterator[Contender]:
        """A cast to float32."""
        element = ELEMENTS.get(work.format)
        if element is not None and work.dtype == "float32":
            import ml_dtypes

            codes = work.few.astype(getattr(ml_dtypes, element))
            yield Contender(
                f"ml_dtypes {element} cast, no scales",
                codes.size,
                lambda: codes.astype(np.float32),
            )
