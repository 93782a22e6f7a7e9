"""Detectron2's ResNet with blocks of attention plugged in: the NL, GC and AA trunks of the FPT paper."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from detectron2.layers import CNNBlockBase
from detectron2.modeling import ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from torch import Tensor, nn

from ...core import ArgumentError, ValidSizes
from .plugins import AttentionAugmentation, GlobalContext, NonLocal


class PluginResNet(ResNet):
    """
    This module implements Detectron2's ResNet with non-local blocks (Wang et al., CVPR 2018), global context blocks
    (Cao et al., GCNet) and attention-augmented convolutions (Bello et al., ICCV 2019), each at any block of any stage.

    Its own weights keep their names, and the plug-ins start as if they were absent: with the weights of a ResNet it
    puts out what the ResNet does. Attention leaves out the padding of a batch, read off the zeros at the bottom and
    right of the images.
    """

    def __init__(
        self,
        stem: CNNBlockBase,
        stages: list[list[CNNBlockBase]],
        *,
        out_features: list[str] | None = None,
        freeze_at: int = 0,
        non_local: Sequence[str] = (),
        global_context: Sequence[str] = (),
        attention_augmented: Sequence[str] = (),
        non_local_similarity: str = "embedded",
        read_padding: bool = True,
    ) -> None:
        """
        Args:
            stem, stages, out_features, freeze_at: as in Detectron2's ResNet. Plug-ins are never frozen.
            non_local, global_context, attention_augmented: places of the plug-ins. ``"res4.5"`` is block 5 of res4,
                ``"res4.-2"`` its last but one, ``"res4"`` all its blocks. A non-local block follows the residual block;
                global context comes last in its residual branch, before the sum (GCNet's "after1x1"); attention is
                added to its (last) 3x3 convolution.
            non_local_similarity: see :class:`.plugins.NonLocal`.
            read_padding: leave out what zeros at the bottom and right of the images mark as padding.

        Raises:
            ValueError: a place that is not there, or that cannot have the plug-in.
        """
        super().__init__(stem, stages, out_features=out_features, freeze_at=freeze_at)
        self.read_padding = read_padding
        self.plugins = nn.ModuleDict({kind: nn.ModuleDict() for kind in ("non_local", "global_context", "attention")})
        for key, block in self._find("non_local", non_local):
            self.plugins["non_local"][key] = NonLocal(block.out_channels, similarity=non_local_similarity)  # type: ignore[operator]
        for key, block in self._find("global_context", global_context, opened=True):
            self.plugins["global_context"][key] = GlobalContext(block.out_channels)  # type: ignore[operator]
        for key, block in self._find("attention_augmented", attention_augmented, opened=True):
            conv = block.conv2
            self.plugins["attention"][key] = AttentionAugmentation(conv.in_channels, conv.out_channels)  # type: ignore[operator]

    def _find(self, kind: str, places: Sequence[str], *, opened: bool = False) -> list[tuple[str, CNNBlockBase]]:
        """Name (without dots, for a ModuleDict) and block of each place; ``opened`` where the plug-in goes inside."""
        found: dict[str, CNNBlockBase] = {}
        for place in places:
            stage, _, index = str(place).partition(".")
            blocks = list(getattr(self, stage)) if stage in self.stage_names else []
            chosen = _indices(index, len(blocks))
            if not chosen:
                have = ", ".join(f"{n} (blocks 0 to {len(s) - 1})" for n, s in zip(self.stage_names, self.stages))
                raise ArgumentError(kind, place, f"places in {have}")
            found.update({f"{stage}_{i}": blocks[i] for i in chosen})
        for key, block in found.items():
            if opened and type(block) not in (BasicBlock, BottleneckBlock):
                name = type(block).__name__
                allowed = f"basic and bottleneck blocks; one of class {name} takes non_local only"
                raise ArgumentError(kind, key.replace("_", "."), allowed)
        return list(found.items())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """
        Args:
            x: (B, 3, H, W) normalised images, padded with zeros at the bottom and right.

        Returns:
            From feature name to (B, C, H / stride, W / stride).
        """
        valid = ValidSizes.unread(x) if self.read_padding else None
        outputs = {}
        x = self.stem(x)
        if "stem" in self._out_features:
            outputs["stem"] = x
        for name, stage in zip(self.stage_names, self.stages):
            for i, block in enumerate(stage):
                x = self._run(block, f"{name}_{i}", x, valid)
            if name in self._out_features:
                outputs[name] = x
        return outputs

    def _run(self, block: CNNBlockBase, key: str, x: Tensor, valid: ValidSizes | None) -> Tensor:
        non_local, context, attention = (
            self.plugins[kind][key] if key in self.plugins[kind] else None  # type: ignore[index, operator]
            for kind in ("non_local", "global_context", "attention")
        )
        x = block(x) if context is None and attention is None else _residual(block, x, valid, context, attention)
        return x if non_local is None else non_local(x, _mask_of(x, valid))


def _residual(
    block: CNNBlockBase,
    x: Tensor,
    valid: ValidSizes | None,
    context: GlobalContext | None,
    attention: AttentionAugmentation | None,
) -> Tensor:
    """What a basic or bottleneck block computes, with attention beside its conv2 and context after its last one."""
    convs = [block.conv1, block.conv2, *([block.conv3] if hasattr(block, "conv3") else [])]
    out = x
    for conv in convs:
        y = conv(out)
        if attention is not None and conv is block.conv2:
            y = y + attention(out, _mask_of(out, valid), stride=conv.stride[0])
        out = y if conv is convs[-1] else F.relu_(y)
    if context is not None:
        out = context(out, _mask_of(out, valid))
    return F.relu_(out + (x if block.shortcut is None else block.shortcut(x)))


def _mask_of(x: Tensor, valid: ValidSizes | None) -> Tensor | None:
    """(B, H, W) bool: where a map of padded images is image; None where that is not read."""
    return None if valid is None else valid.at(x.shape[-2:]).mask().squeeze(1)


def _indices(index: str, length: int) -> list[int]:
    """The blocks that the part of a place after the dot means; empty where there is no such block."""
    if not index:
        return list(range(length))
    try:
        return [range(length)[int(index)]]
    except (ValueError, IndexError):
        return []
