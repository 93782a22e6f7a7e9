"""Every config builds, and has as many parameters as parameters.json says.

After a change that is meant: ``python -m tests.modeling.test_parameters`` writes that file anew.
"""

from __future__ import annotations

import importlib.util
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from detectron2.layers import Conv2d, DeformConv
from detectron2.modeling import build_model
from torch import nn

from fpt_d2 import model_zoo

TABLE = Path(__file__).with_name("parameters.json")
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NAMES = sorted(
    path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml") if not path.name.startswith("Base-")
)


class Undeformed(Conv2d):
    """As many parameters as a deformable convolution, where Detectron2 has been built without that."""

    def __init__(self, *args: Any, deformable_groups: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


def count(name: str) -> dict[str, int]:
    """Parameters of the model and of its parts."""
    cfg = model_zoo.get_config(name)
    cfg.merge_from_list(["MODEL.DEVICE", "meta", "MODEL.TRUNK.PRETRAINED", False])
    with ExitStack() as stack:
        if not issubclass(DeformConv, nn.Module):
            for module in ("detectron2.modeling.backbone.resnet", "fpt_d2.modeling.trunks.build"):
                stack.enter_context(mock.patch(f"{module}.DeformConv", Undeformed))
        stack.enter_context(torch.device("meta"))
        model = build_model(cfg)
    backbone = model.backbone
    assert type(backbone).__module__.startswith("fpt_d2.modeling")
    total, neck, trunk = (sum(p.numel() for p in m.parameters()) for m in (model, backbone, backbone.bottom_up))
    return {"total": total, "trunk": trunk, "neck": neck - trunk, "heads": total - neck}


def can_build(name: str) -> bool:
    needs_timm = model_zoo.get_config(name).MODEL.TRUNK.BUILDER == "build_timm_backbone"
    return not needs_timm or importlib.util.find_spec("timm") is not None


def test_table_has_every_config() -> None:
    assert sorted(json.loads(TABLE.read_text())) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_builds_with_the_parameters_of_the_table(name: str) -> None:
    if not can_build(name):
        pytest.skip("needs timm")
    assert count(name) == json.loads(TABLE.read_text())[name]


if __name__ == "__main__":
    old = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    rows = {name: count(name) if can_build(name) else old.get(name) for name in NAMES}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    TABLE.write_text(f"{{\n{lines}\n}}\n")
