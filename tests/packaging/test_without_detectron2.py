"""What is imported when: nothing before it is needed, and without Detectron2 what works without it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

BLOCK = """
import sys
sys.modules["detectron2"] = None  # as Python marks what it must not import
import fpt_d2
"""
LOADED = """
import sys
before = set(sys.modules)
import {module}
names = "torch torchvision detectron2 LabGym fvcore iopath yacs omegaconf cv2 matplotlib PIL pycocotools".split()
print(*[name for name in names if name in sys.modules and name not in before])
"""


def run(run_python, repo, code: str) -> None:
    run_python("-c", code, PYTHONPATH=str(repo))


def test_a_use_says_in_one_sentence_what_to_do(run_python, repo):
    check = """
said = set()
for use in ("fpt_d2.FPT", "fpt_d2.Predictor", "fpt_d2.add_fpt_config"):
    try: eval(use)
    except ImportError as error: said.add(str(error))
    else: raise AssertionError(use)
try: from fpt_d2 import add_fpt_config
except ImportError as error: said.add(str(error))
else: raise AssertionError
(sentence,) = said
assert "install it as" in sentence and "make quickstart" in sentence, said
assert not hasattr(fpt_d2, "no_such_name") and fpt_d2.__version__
assert {"FPT", "Predictor", "add_fpt_config", "model_zoo"} <= set(dir(fpt_d2))
"""
    run(run_python, repo, BLOCK + check)


def test_core_works(run_python, repo):
    check = """
import torch, fpt_d2.core
from fpt_d2 import core, model_zoo
x = torch.ones(1, 4, 3, 5)
assert torch.equal(core.drop_block(x, 0.0, 3), x)
transform = core.PyramidTransform({"p2": 4, "p3": 8}, 4, channels=4)
assert transform.levels == ("p2", "p3")
assert model_zoo.get_config_file("Base-RCNN-FPT.yaml")
assert not [name for name in sys.modules if name.startswith(("detectron2.", "LabGym", "fvcore"))]
"""
    run(run_python, repo, BLOCK + check)


def test_a_detectron2_that_cannot_start_is_not_hidden(run_python, repo):
    check = """
import sys
sys.modules["fvcore"] = None
import fpt_d2
try: fpt_d2.add_fpt_config
except ModuleNotFoundError as error: assert error.name.startswith("fvcore"), error
else: raise AssertionError
"""
    run(run_python, repo, check)


@pytest.mark.parametrize(
    ("module", "loaded"),
    [("fpt_d2", ""), ("fpt_d2.cli", ""), ("fpt_d2.errors", ""), ("fpt_d2.model_zoo", ""), ("fpt_d2.core", "torch")],
)
def test_an_import_loads_what_it_needs(module, loaded, run_python, repo):
    code = LOADED.format(module=module)
    assert run_python("-c", code, PYTHONPATH=str(repo)).strip() == loaded


def test_the_config_registers_what_it_names(run_python, repo):
    check = """
import sys
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.modeling import BACKBONE_REGISTRY
import fpt_d2
assert "build_resnet_fpt_backbone" not in BACKBONE_REGISTRY and "fpt_shapes_train" not in DatasetCatalog
fpt_d2.add_fpt_config(get_cfg())
assert "build_resnet_fpt_backbone" in BACKBONE_REGISTRY and "fpt_shapes_train" in DatasetCatalog
assert fpt_d2.FPT is sys.modules["fpt_d2.modeling"].FPT
"""
    run(run_python, repo, check)


def test_without_the_deeplab_project_all_but_semantic_segmentation_works(run_python, repo):
    check = """
import sys
sys.modules["detectron2.projects.deeplab"] = None
from detectron2.modeling import build_model
from fpt_d2 import model_zoo
from fpt_d2.engine import ConfigError, Trainer
import torch
cfg = model_zoo.get_config("quick_schedules/mask_rcnn_R_18_FPT_quickstart.yaml")
assert "LOSS_TYPE" not in cfg.MODEL.SEM_SEG_HEAD
model = build_model(cfg)
optimizer = Trainer.build_optimizer(cfg, model)
Trainer.build_lr_scheduler(cfg, optimizer)
try: model_zoo.get_config("Cityscapes-SemanticSegmentation/semantic_R_50_FPT.yaml")
except ConfigError as error: assert "needs Detectron2's project deeplab" in str(error), error
else: raise AssertionError
"""
    run(run_python, repo, check)


@pytest.mark.parametrize(
    ("package", "sentence"),
    [
        ("detectron2", "fpt-demo: Detectron2 is not installed, and only fpt_d2.core works without it: install it as "),
        ("cv2", "fpt-demo: OpenCV is not installed: pip install opencv-python-headless"),
        ("torch", "fpt-demo: PyTorch is not installed: install it as "),
        ("fvcore", "ModuleNotFoundError"),  # of a Detectron2 that is broken: the traceback says more
    ],
)
def test_a_command_says_what_is_to_be_installed(package, sentence, repo):
    code = f"""
import sys
sys.modules[{package!r}] = None
sys.argv = ["fpt-demo", "--config-file", "Base-RCNN-FPT.yaml", "--input", "a.jpg", "--output", "b.jpg"]
from fpt_d2.commands.demo import main
main()
"""
    env = {**os.environ, "PYTHONPATH": str(repo)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(sentence) and done.returncode == (1 if package == "fvcore" else 2), done.stderr
    assert package == "fvcore" or len(done.stderr.splitlines()) == 1
