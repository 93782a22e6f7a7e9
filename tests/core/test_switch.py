"""The neck with its branches off is a 3x3 convolution of each level, and with them on again as it was."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fpt_d2.core import PyramidNeck, PyramidTransform
from fpt_d2.core.switch import branches_off


@torch.no_grad()
@pytest.mark.parametrize("options", [{"fuse": "sum", "min_stride": 8}, {"fuse": "concat"}])
def test_off_and_on_again(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    transform = PyramidTransform({"p2": 4, "p3": 8}, 16, 8, **options)
    neck = PyramidNeck(transform, 16, 16, zero_init=False).eval()
    features = {"p2": torch.randn(1, 16, 8, 12), "p3": torch.randn(1, 16, 4, 6)}
    before = neck(features)
    with pytest.raises(RuntimeError, match="inside"), branches_off(neck):
        for name, y in neck(features).items():
            conv = neck.fusion[name]
            torch.testing.assert_close(y, F.conv2d(features[name], conv.weight, conv.bias, padding=1))
            assert not torch.allclose(y, before[name], atol=1e-2)
        raise RuntimeError("inside")
    for name, y in neck(features).items():
        torch.testing.assert_close(y, before[name], rtol=0, atol=0)
