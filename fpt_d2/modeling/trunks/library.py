"""Models of torchvision and timm as Detectron2 backbones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

from ...core.arguments import check_argument, one_of

NORMS = ("FrozenBN", "BN", "SyncBN")


class FeatureTrunk(Backbone):
    """A module that puts out several feature maps, as a Detectron2 backbone.

    The features are named by their strides as those of a ResNet are, ``res2`` (stride 4) to ``res5`` (stride 32), so
    that a neck's config needs no change. Finer ones are left out.
    """

    def __init__(
        self,
        body: nn.Module,
        *,
        library: str = "",
        pixel_mean: Sequence[float] | None = None,
        pixel_std: Sequence[float] | None = None,
    ) -> None:
        """
        Args:
            body: takes images (B, 3, H, W) and returns a list or dict of maps (B, C, H / stride, W / stride). It is run
                once, on small images, to see what they are.
            library: "timm" or "torchvision", whose weights of the whole model fit; "" for another.
            pixel_mean, pixel_std: what the library's own weights want: RGB, of values 0 to 255; None if not known.

        Raises:
            ValueError: a feature that is not such a map, or two of one stride.
        """
        super().__init__()
        self.body = body
        self.library, self.pixel_mean, self.pixel_std = library, pixel_mean, pixel_std
        self._shapes: dict[str, ShapeSpec] = {}
        self._indices: list[int] = []
        for i, shape in enumerate(_measure(body)):
            if shape.stride < 4:
                continue
            name = f"res{shape.stride.bit_length() - 1}"
            if name in self._shapes:
                raise ValueError(f"two features have stride {shape.stride}; a pyramid needs one of each stride")
            self._shapes[name] = shape
            self._indices.append(i)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> features by name, fine to coarse."""
        features = _as_list(self.body(x))
        return {name: features[i] for name, i in zip(self._shapes, self._indices)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return dict(self._shapes)


def torchvision_trunk(
    name: str, layers: Sequence[str], *, pretrained: bool = False, norm: str = "FrozenBN"
) -> FeatureTrunk:
    """A classifier of torchvision, cut off behind the last of ``layers``.

    Args:
        name: as ``torchvision.models.get_model`` takes it, e.g. "convnext_tiny".
        layers: names of its modules whose outputs are the features, fine to coarse: "layer1", ..., "layer4" of a
            ResNet, "features.1", "features.3", "features.5", "features.7" of a ConvNeXt.
        pretrained: start with torchvision's own weights, which it downloads.
        norm: batch norms are frozen ("FrozenBN"), kept ("BN") or synchronised ("SyncBN").

    Raises:
        ValueError: unknown model, layer or norm, or features that make no pyramid.
    """
    from torchvision.models import get_model, get_model_weights, list_models
    from torchvision.models.feature_extraction import create_feature_extractor

    _check_norm(norm)
    check_argument("layers", list(layers), len(layers) > 0, "the modules whose outputs are the features")
    if name not in list_models():
        raise ValueError(f"torchvision has no model {name!r}; torchvision.models.list_models() names them")
    model = get_model(name, weights="DEFAULT" if pretrained else None)
    try:
        body = create_feature_extractor(model, list(layers))
    except ValueError as error:
        children = ", ".join(n for n, _ in model.named_modules() if n and n.count(".") <= 1)
        raise ValueError(f"torchvision's {name} has no layers {list(layers)}; some that it has: {children}") from error
    if norm == "FrozenBN":
        body = FrozenBatchNorm2d.convert_frozen_batchnorm(body)
    elif norm == "SyncBN":
        body = nn.SyncBatchNorm.convert_sync_batchnorm(body)
    return FeatureTrunk(body, library="torchvision", **_pixels(get_model_weights(name).DEFAULT.transforms()))


def timm_trunk(name: str, *, pretrained: bool = False, norm: str = "FrozenBN", **options: Any) -> FeatureTrunk:
    """A model of timm, by its ``features_only`` mode; its features of stride 4 and more.

    Args:
        name: as ``timm.create_model`` takes it, e.g. "resnet50.a1_in1k".
        pretrained: start with timm's own weights, which it downloads.
        norm: batch norms are frozen ("FrozenBN"), kept ("BN") or synchronised ("SyncBN").
        options: handed on to ``timm.create_model``.

    Raises:
        ImportError: timm is not installed.
        ValueError: unknown model or norm, or features that make no pyramid.
    """
    _check_norm(norm)
    try:
        from timm import create_model, get_pretrained_cfg, is_model
        from timm.layers.norm_act import convert_sync_batchnorm, freeze_batch_norm_2d
    except ModuleNotFoundError as error:
        raise ImportError(f"the trunk {name!r} needs timm, which is not installed: pip install timm") from error
    if not is_model(name):
        raise ValueError(f"timm has no model {name!r}; timm.list_models() names them")
    body = create_model(name, features_only=True, pretrained=pretrained, **options)
    # timm's own: its batch norms may have an activation in them, which others would drop.
    if norm == "FrozenBN":
        body = freeze_batch_norm_2d(body)  # type: ignore[no-untyped-call]
    elif norm == "SyncBN":
        body = convert_sync_batchnorm(body)  # type: ignore[no-untyped-call]
    return FeatureTrunk(body, library="timm", **_pixels(get_pretrained_cfg(name)))


def _pixels(pretrained: Any) -> dict[str, list[float]]:
    """``pixel_mean`` and ``pixel_std`` from what a library knows of its weights, for values 0 to 1; {} if nothing."""
    mean, std = getattr(pretrained, "mean", None), getattr(pretrained, "std", None)
    known = {"pixel_mean": mean, "pixel_std": std} if mean and std else {}
    return {name: [round(255 * x, 3) for x in values] for name, values in known.items()}


def _check_norm(norm: str) -> None:
    check_argument("norm", norm, norm in NORMS, one_of(NORMS))


@torch.no_grad()
def _measure(body: nn.Module) -> list[ShapeSpec]:
    """Channels and stride of every feature, seen on an image of 128 x 256 pixels."""
    height, width = 128, 256
    device = next((p.device for p in body.parameters()), torch.device("cpu"))
    was_training = body.training
    try:
        features = _as_list(body.eval()(torch.zeros(1, 3, height, width, device=device)))
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"the trunk cannot take images of any size, such as {height} x {width}: {error}") from error
    body.train(was_training)
    shapes = []
    for i, feature in enumerate(features):
        stride = height // feature.shape[2] if feature.dim() == 4 else 0
        halves = stride > 0 and math.log2(stride).is_integer()
        if not halves or feature.shape[2:] != (height // stride, width // stride):
            raise ValueError(
                f"feature {i} of the trunk is {tuple(feature.shape)} for images (1, 3, {height}, {width}); it must be "
                "(1, channels, height / stride, width / stride), the stride a power of two"
            )
        shapes.append(ShapeSpec(channels=feature.shape[1], stride=stride))
    return shapes


def _as_list(features: Sequence[Tensor] | Mapping[str, Tensor]) -> list[Tensor]:
    return list(features.values() if isinstance(features, Mapping) else features)
