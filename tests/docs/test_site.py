"""The pages hold together: links, anchors, the reference of config keys, the length of the README."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess

import pytest
from detectron2.model_zoo import get_checkpoint_url

from fpt_d2.errors import UserError

from .commands import PAGES, read_page
from .pages import ROOT

EVERY = ["README.md", *PAGES]
BESIDE = ("README.md", "MODEL_ZOO.md", "CHANGELOG.md", "SECURITY.md")


def load_config_reference():
    path = ROOT / "tools" / "documentation" / "config_reference.py"
    spec = importlib.util.spec_from_file_location("config_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors(path) -> set[str]:
    """Those that a code host makes of the headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*BESIDE, *PAGES])
def test_links_lead_somewhere(page: str) -> None:
    folder = ROOT if page in BESIDE else ROOT / "docs"
    text = re.sub(r"^```.*?^```", "", (folder / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        path = folder / (target or page)
        assert path.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(path), f"{page}: {target}#{anchor}"


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    readme = read_page("README.md")
    assert len(readme.splitlines()) <= 110
    linked = {*re.findall(r"\(docs/(\w+\.md)", readme)}
    assert {*PAGES} - linked <= {"api.md", "benchmark.md"}  # the site's, and one that docs/costs.md leads to


def test_the_site_has_every_page() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:")[2].partition("markdown_extensions")[0]
    beside = {"index.md", "model_zoo.md", "security.md", "changelog.md"}
    assert {*re.findall(r"[\w.]+\.md", nav)} - {"README.md"} == {*PAGES, *beside}


def test_a_warning_ends_make_docs() -> None:
    """--quiet would keep MkDocs from counting its warnings."""
    (build,) = re.findall(r"mkdocs build (.*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert build == "--strict"


def test_the_site_builds_without_a_warning(tmp_path) -> None:
    """What `make docs` runs, in its environment."""
    python = ROOT / ".venv-docs" / "bin" / "python"
    if not python.with_name("mkdocs").exists():
        pytest.skip("MkDocs is missing: `make docs` installs it in .venv-docs")
    words = [python, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-2000:]
    assert (tmp_path / "site" / "notebooks" / "quick_look.ipynb").exists()


def test_the_reference_of_config_keys_is_up_to_date(capsys) -> None:
    assert load_config_reference().main(["--check"]) == 0, capsys.readouterr().err


def test_a_config_key_without_a_comment_is_an_error(monkeypatch) -> None:
    reference = load_config_reference()
    describe = reference.descriptions
    monkeypatch.setattr(reference, "descriptions", lambda source: describe(source) | {"MODEL.FPT.FUSE": ""})
    with pytest.raises(UserError, match=r"no comment above MODEL\.FPT\.FUSE: say there"):
        reference.reference()


def test_every_package_is_in_the_api_reference() -> None:
    named = {*re.findall(r"^::: (fpt_d2\.\w+)", read_page("api.md"), re.MULTILINE)}
    packages = {f"fpt_d2.{path.parent.name}" for path in (ROOT / "fpt_d2").glob("*/__init__.py")}
    assert packages <= named


def test_addresses_of_weights_are_the_model_zoos() -> None:
    found = {
        match for page in EVERY for match in re.findall(r"detectron2://((COCO-\w+/\w+)/\S+\.pkl)", read_page(page))
    }
    assert found
    for path, model in found:
        assert get_checkpoint_url(f"{model}.yaml").endswith(path)
