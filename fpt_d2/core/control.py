"""The control of an ablation: branches with the convolutions of attention and without attention.

What FPT gains over its source pyramid may come from attention or from the convolutions that come with it. A control has
the same three linear maps as a :class:`.transformers.SelfTransformer` or :class:`.transformers.GroundingTransformer`,
reads the same levels and is fused alike, but where it reads does not depend on what is there.

Shape legend: B batch, C channels, H x W target map, h x w source map.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .arguments import check_argument, one_of
from .level import Level
from .transformers import Branch, Norm

READS = ("place", "mean")


class WithoutAttention(Branch):
    """``value(relu(query(target) + read(key(source))))``: each position reads the source in a fixed way.

    Beside attention it lacks the mixture's gate (N * C parameters); "place" has a 3x3 depthwise convolution more
    (10 * C), all of them few beside the 3 * C^2 of the linear maps.
    """

    def __init__(self, channels: int, *, read: str, norm: Norm = None) -> None:
        """
        Args:
            channels: of both levels and of the output.
            read: "place", the source around the same place, as a convolution sees it; or "mean", the mean of the whole
                source, as attention of equal weights sees it.
            norm: makes the normalisation of the output from its channels; None for none.

        Raises:
            ValueError: a value that is not allowed.
        """
        super().__init__(channels, norm)
        check_argument("read", read, read in READS, one_of(READS))
        self.query, self.key, self.value = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.around = nn.Conv2d(channels, channels, 3, padding=1, groups=channels) if read == "place" else None

    def transform(self, target: Level, source: Level) -> Tensor:
        return self.value(F.relu(self.query(target.map) + self._read(target, source)))  # type: ignore[no-any-return]

    def _read(self, target: Level, source: Level) -> Tensor:
        """(B, C, H, W), or (B, C, 1, 1) for the mean."""
        if self.around is None:
            return self.key(source.mean)  # type: ignore[no-any-return]
        key = F.interpolate(self.key(source.map), size=target.map.shape[-2:])  # nearest: no image meets its padding
        return self.around(target.without_padding(key))  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"channels={self.channels}, read={'mean' if self.around is None else 'place'!r}"
