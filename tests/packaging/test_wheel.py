"""A built wheel has the package, its configs and recipes, nothing else, and works in an empty environment."""

from __future__ import annotations

import email
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fpt_d2.data.synthetic.write_shapes import write_shapes
from tests.data.label_formats import write_voc

CONFIG = "COCO-Detection/faster_rcnn_R_50_FPT_1x.yaml"
ROOT = Path(__file__).resolve().parents[2]
SMALL = "quick_schedules/faster_rcnn_R_18_FPT_quickstart.yaml"
# Of that one, what a test can wait for.
KEYS = """MODEL.FPN.OUT_CHANNELS 32 MODEL.FPT.BRANCH_CHANNELS 16 MODEL.ROI_BOX_HEAD.FC_DIM 16 INPUT.MIN_SIZE_TRAIN (64,)
INPUT.MIN_SIZE_TEST 64 SOLVER.MAX_ITER 1 SOLVER.STEPS () SOLVER.IMS_PER_BATCH 2 DATALOADER.NUM_WORKERS 0""".split()
MODULES = (ROOT / "fpt_d2" / "commands").glob("*.py")
COMMANDS = sorted(path.stem.replace("_", "-") for path in MODULES if "\ndef main(" in path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wheel(repo, tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for folder in ("fpt_d2", "configs", "recipes", "standin"):
        shutil.copytree(repo / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__", "build"))
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repo / file, source)
    target = tmp_path_factory.mktemp("wheel")
    build = ["wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "-w", target, source]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True)
    return next(target.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> str:
    """The interpreter of an environment that has the wheel and, behind it, the packages of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    python = str(folder / "bin" / "python")
    install = ["--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    # addsitedir reads the .pth files there too: an editable Detectron2, or the stand-in, comes by one. So does this
    # checkout, but last: the tests assert that the wheel is what was imported. Written only now, so that pip sees none.
    packages = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    site_packages = Path(sysconfig.get_path("purelib", "venv", {"base": folder}))
    site_packages.joinpath("packages.pth").write_text(
        "".join(f"import site; site.addsitedir({folder!r})\n" for folder in packages)
    )
    return python


def test_content(wheel, repo):
    modules = {path.relative_to(repo).as_posix() for path in repo.glob("fpt_d2/**/*.py")}
    read = [*repo.glob("configs/**/*.*"), *repo.glob("recipes/*.*")]
    configs = {f"fpt_d2/{path.relative_to(repo).as_posix()}" for path in read}
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {f"fpt_d2/configs/{CONFIG}", f"fpt_d2/configs/{CONFIG.replace('.yaml', '.py')}"} <= files
    assert files == modules | configs


def test_metadata(wheel, repo):
    with zipfile.ZipFile(wheel) as archive:
        (folder,) = {name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = email.message_from_bytes(archive.read(f"{folder}/METADATA"))
        assert archive.read(f"{folder}/licenses/LICENSE") == (repo / "LICENSE").read_bytes()
    required = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert required == ["pydantic>=2.8"], "pip could replace what a user has"
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["Author"] == "fpt_d2 contributors"
    assert metadata["Requires-Python"] == ">=3.10"
    assert not metadata.get_all("Project-URL") and metadata["Home-page"] is None
    assert metadata["Description-Content-Type"] == "text/markdown"
    readme = (repo / "README.md").read_text(encoding="utf-8")
    assert metadata.get_payload(decode=True).decode().strip() == readme.strip()


def test_configs_from_the_wheel(run_python, python):
    code = f"""
import sys
import fpt_d2
from fpt_d2 import model_zoo
path = model_zoo.get_config_file({CONFIG!r})
assert path.startswith(sys.prefix), path
cfg = model_zoo.get_config({CONFIG!r})
assert cfg.MODEL.BACKBONE.NAME == "build_resnet_fpt_backbone" and cfg.MODEL.FPT.BRANCHES
lazy = model_zoo.get_config({CONFIG.replace(".yaml", ".py")!r})
assert lazy.model.backbone._target_ is fpt_d2.FPT
from detectron2.modeling import BACKBONE_REGISTRY
assert cfg.MODEL.BACKBONE.NAME in BACKBONE_REGISTRY
files = [module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "fpt_d2"]
assert len(files) > 10 and all(file.startswith(sys.prefix) for file in files), files
"""
    run_python("-c", code, python=python)


def test_core_from_the_wheel_without_detectron2(run_python, python):
    code = """
import sys
sys.modules["detectron2"] = None
import fpt_d2.core
assert fpt_d2.core.__file__.startswith(sys.prefix), fpt_d2.core.__file__
"""
    run_python("-W", "ignore", "-c", code, python=python)


@pytest.fixture
def command(python, tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run an installed command in an empty folder."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "DETECTRON2_DATASETS": str(tmp_path / "datasets")}
    env.pop("PYTHONPATH", None)

    def run(name: str, *words: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        line = [str(Path(python).with_name(f"fpt-{name}")), *map(str, words)]
        done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == status, done.stdout + done.stderr
        assert str(ROOT) not in done.stdout + done.stderr, "it is the checkout that ran"
        return done

    return run


def test_every_command_says_how_it_is_used(command):
    for name in COMMANDS:
        done = command(name, "--help")
        assert done.stdout.startswith(f"usage: fpt-{name} ") and ".py" not in done.stdout, done.stdout
    assert "torchrun --nproc-per-node 8 --max-restarts 3 -m fpt_d2.commands.train" in command("train", "--help").stdout


def test_from_labels_to_pictures_in_an_empty_folder(command, tmp_path):
    write_shapes(tmp_path / "shapes", num_train=2, num_val=2)
    write_voc(tmp_path / "shapes", tmp_path / "photos")
    said = command("prepare", "voc", "photos", "--name", "cells").stdout
    (printed,) = re.findall("To train with it, add to the command: (.*)", said)
    keys = [*KEYS, *shlex.split(printed)]
    command("train", "--config-file", SMALL, *keys, "OUTPUT_DIR", "out")
    assert (tmp_path / "out" / "model_final.pth").is_file()
    photo = next((tmp_path / "photos" / "JPEGImages").iterdir())
    model = ["--config-file", "out/config.yaml", "--input", photo]
    command("demo", *model, "--output", "drawn.png")
    command("explore", *model, "--point", "20,20", "--output", "attention.png")
    for picture in ("drawn.png", "attention.png"):
        assert min(Image.open(tmp_path / picture).size) > 50
    words = ["--variant", "FPT", "--config-file", SMALL, "--jobs", 1, "--output", "compared", "--opts", *keys]
    assert "Wrote ablation.md" in command("ablate", *words).stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train", "--config-file", "COCO-Detection/faster_rcnn_R_50_FTP_1x.yaml"], f"did you mean {CONFIG}"),
        (["train", "--config-file", "quick_schedules/fcos_R_18_FPT_quickstart.py"], "is a lazy config"),
        (["ablate", "--recipe", "none.yaml", "--output", "out"], "The recipe none.yaml cannot be read"),
    ],
)
def test_what_comes_with_the_wheel_is_found_by_name(words, sentence, command):
    assert sentence in command(*words, status=2).stderr
