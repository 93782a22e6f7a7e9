"""The commands of docs/finetune.md run as typed, one after the other; here with few images and two iterations."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch

from tests.in_process import running_commands

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "finetune.md").read_text(encoding="utf-8")
FEW = {
    "train_net.py": ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "TEST.EXPECTED_RESULTS", "[]"],
    "tools/generate_shapes.py": ["--num-train", "8", "--num-val", "2", "--min-size", "64", "--max-size", "80"],
    "tools/visualize_data.py": ["--num-images", "2"],
    "tools/visualize_predictions.py": ["--num-images", "2"],
    "tools/visualize_json_results.py": ["--conf-threshold", "0.0"],
}


def commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder that looks like the repository's, and is left clean."""
    if os.getenv("DETECTRON2_DATASETS"):
        pytest.skip("the bundled data have been registered under DETECTRON2_DATASETS, which is not to be written to")
    for name in ("configs", "tools", "train_net.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    with running_commands("my_train", "my_val"):
        yield tmp_path
    shutil.rmtree(tmp_path / "output", ignore_errors=True)


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert words[0] == "python"
    script = words[1]
    monkeypatch.setattr(sys, "argv", [script, *words[2:], *FEW.get(script, [])])
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert not end.code, f"{' '.join(words)}: {end.code}"


def test_the_guide_works_as_typed(folder: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    (config,) = re.findall(r"Save this as `(.*?)`.*?```yaml\n(.*?)```", GUIDE, re.DOTALL)
    (folder / config[0]).write_text(config[1])
    for words in commands():
        run(words, monkeypatch)
    out = folder / "output" / "my_finetune"
    start = torch.load(folder / "output/mask_rcnn_R_18_FPN_quickstart/model_final.pth", weights_only=True)["model"]
    fpn = torch.load(out / "fpn.pth", weights_only=True)["model"]
    assert start.keys() == fpn.keys()
    log = (out / "log.txt").read_text()
    assert f"loaded: {len(start)} tensors" in log and "new, as initialized" in log and "unexpected" not in log
    assert (out / "predictions.png").stat().st_size > 1000 and len(list((out / "drawn").iterdir())) == 2
    assert len(list((folder / "output/my_data_drawn").iterdir())) == 2


def test_what_the_guide_links_to_is_there() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", GUIDE):
        assert link.startswith("https://") or (ROOT / "docs" / link.split("#")[0]).exists(), link
    for path in re.findall(r"(?:configs|tools)/[\w./-]+\.(?:yaml|py)", GUIDE):
        assert (ROOT / path).exists(), path
