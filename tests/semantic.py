"""A tiny data set and model for semantic segmentation, which several tests share."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("ground", "left wing", "right wing")
IGNORE = 255

_RES = ["res2", "res3", "res4", "res5"]
# Trains within seconds. Its levels have strides 4 to 32.
CONFIG: dict[str, Any] = {
    "MODEL": {
        "META_ARCHITECTURE": "SemanticSegmentor",
        "DEVICE": "cpu",
        "WEIGHTS": "",
        "BACKBONE": {"NAME": "build_resnet_fpt_backbone", "FREEZE_AT": 0},
        "RESNETS": {
            "DEPTH": 18,
            "RES2_OUT_CHANNELS": 64,
            "STEM_OUT_CHANNELS": 16,
            "NORM": "BN",
            "OUT_FEATURES": _RES,
            "STEM_TYPE": "basic",
        },
        "FPN": {"IN_FEATURES": _RES, "OUT_CHANNELS": 16},
        "FPT": {"BRANCH_CHANNELS": 8},
        "SEM_SEG_HEAD": {
            "NAME": "SemSegFPNHead",
            "IN_FEATURES": ["p2", "p3", "p4", "p5"],
            "CONVS_DIM": 32,
            "NUM_CLASSES": len(CLASSES),
        },
    },
    "INPUT": {"MIN_SIZE_TRAIN": [40, 48], "MIN_SIZE_TEST": 40, "CROP": {"ENABLED": True, "SIZE": [0.8, 0.8]}},
    "DATALOADER": {"NUM_WORKERS": 0},
    "SOLVER": {"IMS_PER_BATCH": 2, "BASE_LR": 0.01, "WARMUP_ITERS": 0, "STEPS": [100], "MAX_ITER": 3},
    "SEED": 1,
    "VERSION": 2,
}


def draw(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) whose brightness is the class, and its labels (H, W), of which a corner has none."""
    blocks = rng.integers(len(CLASSES), size=(3, 4), dtype=np.uint8)
    labels = np.asarray(Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)).copy()
    labels[:5, :6] = IGNORE
    image = np.repeat(np.where(labels == IGNORE, 200, 20 + 70 * labels.astype(int))[..., None], 3, axis=2)
    return image.astype(np.uint8), labels


def write_semantic(root: Path, *, number: int = 4) -> tuple[str, str, tuple[str, ...]]:
    """Write images of 36 to 60 pixels and their masks.

    Returns:
        Image folder, mask folder and classes, as DATASETS.REGISTER_SEM_SEG takes them after the name.
    """
    rng = np.random.default_rng(0)
    images, masks = root / "images", root / "masks"
    for folder in (images, masks):
        folder.mkdir(parents=True)
    for index in range(number):
        image, labels = draw(rng, *map(int, rng.integers(36, 61, size=2)))
        Image.fromarray(image).save(images / f"{index}.png")
        Image.fromarray(labels).save(masks / f"{index}.png")
    return str(images), str(masks), CLASSES
