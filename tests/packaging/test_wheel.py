"""A built wheel has the package and its configs, nothing else, and works in an empty environment."""

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

CONFIG = "COCO-Detection/faster_rcnn_R_50_FPT_1x.yaml"


@pytest.fixture(scope="module")
def wheel(repo, tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for folder in ("fpt_d2", "configs", "standin"):
        shutil.copytree(repo / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__", "build"))
    for file in ("setup.py", "pyproject.toml"):
        shutil.copy(repo / file, source)
    target = tmp_path_factory.mktemp("wheel")
    build = ["wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "-w", target, source]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True)
    return next(target.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> str:
    """The interpreter of an environment that has the wheel, and by a .pth file the packages of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    site_packages = Path(sysconfig.get_path("purelib", "venv", {"base": folder}))
    # Not what is installed as editable here, which .pth files in that folder would bring: Python does not read those.
    packages = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    site_packages.joinpath("packages.pth").write_text("\n".join(packages))
    python = str(folder / "bin" / "python")
    install = ["install", "--quiet", "--no-deps", "--no-index", "--target", site_packages, wheel]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    return python


def test_content(wheel, repo):
    modules = {path.relative_to(repo).as_posix() for path in repo.glob("fpt_d2/**/*.py")}
    configs = {f"fpt_d2/{path.relative_to(repo).as_posix()}" for path in repo.glob("configs/**/*.*")}
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = archive.read(next(n for n in archive.namelist() if n.endswith("/METADATA"))).decode()
    assert {f"fpt_d2/configs/{CONFIG}", f"fpt_d2/configs/{CONFIG.replace('.yaml', '.py')}"} <= files
    assert files == modules | configs
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert not required, "pip could replace what a user has"


def test_configs_from_the_wheel(run_python, python):
    code = f"""
import sys
try: import detectron2
except ModuleNotFoundError:  # the stand-in starts from a .pth file
    import detectron2_standin; detectron2_standin.install()
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
