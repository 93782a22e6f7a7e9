"""The Feature Pyramid Transformer as a Detectron2 backbone: over a trunk, or over any backbone that is a pyramid."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, Backbone
from torch import Tensor, nn

from ..core import Fusion, PyramidTransform, ValidSizes
from ..core.fusion import fuse, make_fusions
from ..core.pyramid import NOT_SCRIPTABLE
from .keys import norm_factory
from .pyramids import TopDown


def pyramid_strides(bottom_up: Backbone, in_features: Sequence[str]) -> dict[str, int]:
    """Names (``p2`` has stride 4) and strides of the levels over ``in_features``, as Detectron2's FPN names them."""
    strides = (bottom_up.output_shape()[f].stride for f in in_features)
    return {f"p{stride.bit_length() - 1}": stride for stride in strides}


def check_levels(transform: PyramidTransform | None, levels: Sequence[str]) -> None:
    """
    Raises:
        ValueError: the transform is over other levels.
    """
    if transform is not None and transform.levels != tuple(levels):
        raise ValueError(f"the transform has levels {transform.levels}, the pyramid {tuple(levels)}")


class FPT(FPN):
    """
    This module implements the Feature Pyramid Transformer (Zhang et al., ECCV 2020) over any bottom-up backbone.

    A source pyramid is built over laterals, with the parameter names of Detectron2's FPN, so that an FPN checkpoint
    loads. The transform reads it, and each level becomes ``norm(fpn_output(x) + fuse(branches))``, the paper's
    convolution over the concatenation. Without a transform it is FPN, or BFP.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        *,
        transform: PyramidTransform | None = None,
        pyramid: nn.Module | None = None,
        read_padding: bool = True,
        zero_init_fuse: bool = True,
        make_drop_block: Callable[[], nn.Module] | None = None,
        norm: str = "",
        top_block: nn.Module | None = None,
        fuse_type: str = "sum",
        square_pad: int = 0,
    ) -> None:
        """
        Args:
            bottom_up, in_features, out_channels, norm, top_block, fuse_type, square_pad: as in Detectron2's FPN.
            transform: over levels named and strided as :func:`pyramid_strides` says, with ``out_channels`` as its
                input channels. None: no branches.
            pyramid: from the laterals by level to the source of the same levels, such as those of :mod:`.pyramids`.
                None: FPN's top-down path.
            read_padding: read off each image's zeros at the bottom and right how much of it is padding, so that the
                branches do not depend on it; trunk, pyramid and ``fpn_output`` do as in FPN.
            zero_init_fuse: start the fusion of the branches at zero: at its start the model is FPN.
            make_drop_block: makes what is applied to each level's output, e.g. :class:`..core.DropBlock`.

        Raises:
            ValueError: a transform over other levels.
        """
        super().__init__(bottom_up, list(in_features), out_channels, norm, top_block, fuse_type, square_pad)
        self.levels = tuple(pyramid_strides(bottom_up, in_features))
        check_levels(transform, self.levels)
        self.fpt = transform
        self.pyramid = TopDown(fuse_type) if pyramid is None else pyramid
        self.read_padding = read_padding and transform is not None
        fusions = make_fusions(
            transform, self.levels, out_channels, out_channels, norm_factory(norm), zero_init_fuse, make_drop_block
        )
        for level, fusion in fusions.items():
            self.add_module(f"fpn_output{level[1:]}", fusion)
        self.output_convs = list(reversed(fusions.values()))  # what FPN keeps of them, which would be its own

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """
        Args:
            x: (B, 3, H, W) normalised images, padded with zeros at the bottom and right.

        Returns:
            From level name to (B, out_channels, H / stride, W / stride), fine to coarse: ``{"p2": ..., "p6": ...}``.
        """
        # Before the trunk, or the processor would wait for it on a GPU.
        valid = ValidSizes.read(x) if self.read_padding else None
        bottom_up, fusions = self.bottom_up(x), self.fusions
        outputs = fuse(self.source_pyramid(bottom_up), valid, transform=self.fpt, fusions=fusions)
        if self.top_block is not None:
            feature = self.top_block.in_feature
            extra = self.top_block(bottom_up[feature] if feature in bottom_up else outputs[feature])
            outputs.update(zip(self._out_features[len(outputs) :], extra))
        return outputs

    def source_pyramid(self, bottom_up: dict[str, Tensor]) -> dict[str, Tensor]:
        """The maps that the transform reads, (B, out_channels, H_n, W_n) by level, fine to coarse."""
        features = zip(self.levels, self.in_features)
        laterals = {n: getattr(self, f"fpn_lateral{n[1:]}")(bottom_up[feature]) for n, feature in features}
        return self.pyramid(laterals)  # type: ignore[no-any-return]

    @property
    def fusions(self) -> dict[str, Fusion]:
        """What makes each level's output, by level."""
        return {n: getattr(self, f"fpn_output{n[1:]}") for n in self.levels}

    def __prepare_scriptable__(self) -> nn.Module:
        raise NotImplementedError(NOT_SCRIPTABLE)


class PyramidFPT(Backbone):
    """FPT over a backbone that is a pyramid already, such as BiFPN: its maps are the source of the transform."""

    def __init__(
        self,
        bottom_up: Backbone,
        out_channels: int,
        *,
        transform: PyramidTransform | None = None,
        read_padding: bool = True,
        zero_init_fuse: bool = True,
        make_drop_block: Callable[[], nn.Module] | None = None,
        norm: str = "",
    ) -> None:
        """
        Args:
            bottom_up: every map of ``output_shape()`` is a level, fine to coarse, all of one width.
            out_channels: of every level's output.
            transform, read_padding, zero_init_fuse, make_drop_block, norm: as for :class:`FPT`.

        Raises:
            ValueError: levels of several widths, or a transform over others.
        """
        super().__init__()
        shapes = bottom_up.output_shape()
        widths = {n: shape.channels for n, shape in shapes.items()}
        if len(set(widths.values())) != 1:
            raise ValueError(f"the levels of the pyramid have widths {widths}; they must be of one width")
        check_levels(transform, list(shapes))
        self.bottom_up, self.fpt = bottom_up, transform
        self.read_padding = read_padding and transform is not None
        options = norm_factory(norm), zero_init_fuse, make_drop_block
        width = next(iter(widths.values()))
        self.fpt_output = nn.ModuleDict(make_fusions(transform, list(shapes), width, out_channels, *options))
        self._shapes = {n: ShapeSpec(channels=out_channels, stride=shape.stride) for n, shape in shapes.items()}

    @property
    def size_divisibility(self) -> int:
        return self.bottom_up.size_divisibility  # type: ignore[no-any-return]

    @property
    def padding_constraints(self) -> dict[str, int]:
        return self.bottom_up.padding_constraints  # type: ignore[no-any-return]

    def output_shape(self) -> dict[str, ShapeSpec]:
        return dict(self._shapes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """
        Args:
            x: (B, 3, H, W) normalised images, padded with zeros at the bottom and right.

        Returns:
            From level name to (B, out_channels, H / stride, W / stride).
        """
        valid = ValidSizes.read(x) if self.read_padding else None
        return fuse(self.bottom_up(x), valid, transform=self.fpt, fusions=self.fpt_output)
