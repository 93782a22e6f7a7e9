"""FPT in a lazy config."""

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from fpt_d2 import FPT
from fpt_d2.core import GroundingTransformer, PyramidTransform, RenderingTransformer, SelfTransformer
from fpt_d2.core.pyramid import branch_factory


def use_fpt(model: DictConfig, levels: range = range(2, 6)) -> None:
    """Put FPT in the place of the FPN in one of Detectron2's models.

    Args:
        model: changed in place.
        levels: of the transform, 2 for p2; those of RetinaNet and FCOS begin with p3.
    """
    model.backbone.update(
        _target_=FPT,
        transform=L(PyramidTransform)(
            strides={f"p{n}": 2**n for n in levels},
            in_channels="${..out_channels}",
            channels=256,
            # cost linear in the image; 0 is exact, with 18 times the attention work at 800 x 1333
            st=L(branch_factory)(branch=SelfTransformer, max_kv_tokens=1024),
            gt=L(branch_factory)(branch=GroundingTransformer, max_kv_tokens=1024),
            rt=L(branch_factory)(branch=RenderingTransformer),
            fuse="sum",
            min_stride=8,
        ),
        zero_init_fuse=True,
    )
