"""Dockerfile and environment.yml name what is there. (No container engine is asked: nothing is built.)"""

from __future__ import annotations

import importlib.metadata
import json
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import setuptools
import yaml

PINNED = re.compile(r"([\w.-]+)==([\w.]+)")


@pytest.fixture
def packaging(repo: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py hands to setuptools."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: given.update(arguments))
    monkeypatch.chdir(repo)
    runpy.run_path("setup.py", run_name="__main__")
    return given


@pytest.fixture
def instructions(repo: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (repo / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2]) for line in text.splitlines() if line]


def of(instructions: list[tuple[str, str]], kind: str) -> list[str]:
    return [rest for name, rest in instructions if name == kind]


def check_pip(words: list[str], repo: Path, packaging: dict[str, Any]) -> None:
    """Requirements files exist, and extras are those of setup.py."""
    for option, file in zip(words, words[1:]):
        if option in ("-r", "-c", "--requirement", "--constraint"):
            assert (repo / file).is_file(), file
    for word in words:
        if extras := re.fullmatch(r"\.\[(.*)\]", word):
            assert {*extras[1].split(",")} <= packaging["extras_require"].keys(), word


def test_what_is_copied_is_there_and_not_ignored(instructions, repo, packaging) -> None:
    sources = [source for rest in of(instructions, "COPY") for source in rest.split()[:-1]]
    assert all((repo / source).exists() for source in sources)
    ignored = (repo / ".dockerignore").read_text().splitlines()
    assert [f"!{source}" for source in sources] == [line for line in ignored if line.startswith("!")]
    assert {"setup.py", "fpt_d2", *packaging["package_dir"].values()} <= {*sources}


def test_the_commands_of_the_image(instructions, repo, packaging) -> None:
    runs = [shlex.split(rest) for rest in of(instructions, "RUN")]
    assert sum("pip" in words for words in runs) == 3
    for words in runs:
        check_pip(words, repo, packaging)
    (command,) = of(instructions, "CMD")
    scripts = [script.partition(" = ")[0] for script in packaging["entry_points"]["console_scripts"]]
    assert json.loads(command)[0] in scripts
    assert of(instructions, "USER") == ["fpt"] and instructions[-3][0] == "USER", "what runs has no rights"
    (detectron2,) = [rest for rest in of(instructions, "ARG") if rest.startswith("DETECTRON2=")]
    assert re.fullmatch(r"DETECTRON2=[0-9a-f]{40}", detectron2)


def test_every_argument_is_used(instructions, repo) -> None:
    used = " ".join(rest for _, rest in instructions)
    names = [rest.partition("=")[0] for rest in of(instructions, "ARG")]
    assert all(re.search(rf"\$\{{?{name}\b", used) for name in names)
    for named in re.findall(r"--build-arg (\w+)=", (repo / "Dockerfile").read_text()):
        assert named in names


def test_the_cuda_base_is_of_the_cuda_of_the_pinned_torch(repo) -> None:
    (pin,) = re.findall(r"^torch==([\d.]+)", (repo / "requirements" / "torch.txt").read_text(), re.MULTILINE)
    if importlib.metadata.version("torch").partition("+")[0] != pin:
        pytest.skip(f"torch is not the {pin} of requirements/torch.txt")
    toolkit = re.search(r"cuda-toolkit\S*==(\d+\.\d+)", " ".join(importlib.metadata.requires("torch") or []))
    if not toolkit:
        pytest.skip("this torch does not say its CUDA")
    for file in ("Dockerfile", "docs/install.md"):
        assert {*re.findall(r"nvidia/cuda:(\d+\.\d+)", (repo / file).read_text())} == {toolkit[1]}, file


def test_the_conda_environment(repo, packaging) -> None:
    content = yaml.safe_load((repo / "environment.yml").read_text())
    *conda, pip = content["dependencies"]
    assert content["name"] == packaging["name"]
    (python,) = [package for package in conda if package.startswith("python=")]
    assert tuple(map(int, python.removeprefix("python=").split("."))) >= (3, 10)
    words = [word for line in pip["pip"] for word in line.split()]
    check_pip(words, repo, packaging)
    assert {"requirements/torch.txt", "requirements/runtime.txt", "requirements/constraints.txt"} <= {*words}


def test_every_extra_is_pinned_and_documented(repo, packaging) -> None:
    pins = {}
    for file in (repo / "requirements").glob("*.txt"):
        pins |= dict(PINNED.findall(file.read_text()))
    extras, page = packaging["extras_require"], (repo / "docs" / "install.md").read_text()
    for name, packages in extras.items():
        assert f"| `{name}` |" in page, name
        for package in packages:
            bare = re.match(r"[\w.-]+", package)[0].lower().replace("_", "-")
            assert bare in pins or name in ("web", "all"), f"{name}: {package} has no pin in requirements/"
    parts = {package for name, packages in extras.items() if name not in ("all", "dev") for package in packages}
    assert {*extras["all"]} == parts
