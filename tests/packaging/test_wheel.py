"""A built wheel has the package and its configs, nothing else, and works in an empty environment."""

from __future__ import annotations

import email
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
    site_packages = Path(sysconfig.get_path("purelib", "venv", {"base": folder}))
    # addsitedir reads the .pth files there too: an editable Detectron2, or the stand-in, comes by one. So does this
    # checkout, but last: the tests assert that the wheel is what was imported.
    packages = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    site_packages.joinpath("packages.pth").write_text(
        "".join(f"import site; site.addsitedir({folder!r})\n" for folder in packages)
    )
    python = str(folder / "bin" / "python")
    install = ["install", "--quiet", "--no-deps", "--no-index", "--target", site_packages, wheel]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    return python


def test_content(wheel, repo):
    modules = {path.relative_to(repo).as_posix() for path in repo.glob("fpt_d2/**/*.py")}
    configs = {f"fpt_d2/{path.relative_to(repo).as_posix()}" for path in repo.glob("configs/**/*.*")}
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
