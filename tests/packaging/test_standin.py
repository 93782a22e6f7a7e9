"""The stand-in is Detectron2 by every name, and gives way to a real one."""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import pickle
import sys
from pathlib import Path

import detectron2
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetFromList, MapDataset
from detectron2.structures import Boxes
from torch.utils.data import DataLoader

STANDIN = Path(__file__).resolve().parents[2] / "standin"
# A Python that sees the stand-in's file and no installed package at all.
ALONE = f"import sys; sys.path.insert(0, {str(STANDIN)!r}); import detectron2_standin; detectron2_standin.install()\n"

needs_standin = pytest.mark.skipif(
    type(detectron2.__spec__.loader).__module__ != "detectron2_standin", reason="a real Detectron2 is installed"
)


def add_one(x: int) -> int:
    return x + 1


@needs_standin
def test_every_name_is_detectron2s():
    import detectron2.engine

    loaded = {name: module for name, module in sys.modules.items() if name.startswith("detectron2.")}
    assert len(loaded) > 100
    assert all(module.__name__ == name == module.__spec__.name for name, module in loaded.items())
    assert detectron2.engine.DefaultTrainer.__module__ == "detectron2.engine.defaults"
    values = [value for module in loaded.values() for value in vars(module).values()]
    assert not [v for v in values if str(getattr(v, "__module__", "")).startswith("LabGym")]


@needs_standin
def test_one_copy_under_both_names():
    import LabGym.detectron2.config
    import LabGym.detectron2.utils.comm as comm

    assert LabGym.detectron2 is detectron2
    assert comm is sys.modules["detectron2.utils.comm"]
    assert comm.__spec__.name == "detectron2.utils.comm"


@needs_standin
def test_missing_modules_are_missing():
    assert importlib.util.find_spec("detectron2._C") is None
    with pytest.raises(ModuleNotFoundError, match="No module named 'detectron2.nothing'"):
        importlib.import_module("detectron2.nothing")
    with pytest.raises(ModuleNotFoundError, match="No module named 'detectron2.nothing'"):
        importlib.import_module("LabGym.detectron2.nothing")


@needs_standin
def test_pickles_are_detectron2s_and_labgyms_load():
    boxes = Boxes(torch.tensor([[0.0, 1.0, 2.0, 3.0]]))
    data = pickle.dumps(boxes)
    assert b"detectron2.structures.boxes" in data and b"LabGym" not in data
    assert torch.equal(pickle.loads(data).tensor, boxes.tensor)
    reference = pickle.dumps(Boxes, protocol=0)
    assert pickle.loads(reference.replace(b"detectron2.", b"LabGym.detectron2.")) is Boxes


@needs_standin
def test_lazy_configs_of_the_zoo():
    from detectron2 import model_zoo

    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert type(model).__module__ == "detectron2.modeling.meta_arch.rcnn"


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_data_workers(method):
    data = MapDataset(DatasetFromList([1, 2, 3]), add_one)
    loader = DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context=method)
    assert list(loader) == [2, 3, 4]


@needs_standin
def test_runs_as_a_program(run_python):
    assert "detectron2._C  " in run_python("-m", "detectron2.utils.collect_env")


def test_a_real_detectron2_on_the_path_wins(run_python, tmp_path):
    # Without the installed packages (-S), among which there may be an editable Detectron2 that finds its own modules.
    for name, version in (("detectron2", "real"), ("LabGym/detectron2", "carried")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text(f"__version__ = {version!r}")
    (tmp_path / "LabGym" / "detectron2" / "config.py").touch()
    check = "import detectron2, importlib.util as u; assert detectron2.__version__ == 'real';"
    check += "assert u.find_spec('detectron2.config') is None"
    run_python("-S", "-c", ALONE + check, PYTHONPATH=str(tmp_path))


def test_a_real_detectron2_behind_a_finder_wins(run_python):
    # So pip installs editable packages.
    finder = (
        "import sys; from importlib.machinery import ModuleSpec\n"
        "class Editable:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        return ModuleSpec(name, 'real') if name == 'detectron2' else None\n"
        "sys.meta_path.append(Editable)\n"
    )
    check = "import importlib.util as u; assert u.find_spec('detectron2').loader == 'real'"
    run_python("-S", "-c", finder + ALONE + check)


def test_without_labgym_there_is_no_detectron2(run_python):
    check = (
        "try: import detectron2\n"
        "except ModuleNotFoundError as e: assert e.name == 'detectron2', e.name\n"
        "else: raise AssertionError\n"
    )
    run_python("-S", "-c", ALONE + check)


def test_no_second_copy_beside_labgyms(run_python, tmp_path):
    package = tmp_path / "LabGym" / "detectron2"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    check = (
        "import LabGym.detectron2\n"
        "try: import detectron2\n"
        "except ImportError as e: assert 'two copies' in str(e), e\n"
        "else: raise AssertionError\n"
    )
    run_python("-S", "-c", ALONE + check, PYTHONPATH=str(tmp_path))
