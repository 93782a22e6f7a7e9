"""The commands of the pages that need neither data nor GPUs, in the order of the pages; few images, two iterations."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.loggers import forget_loggers

from .commands import blocks_of
from .pages import ROOT

# Later pages use what the commands of the first one have made.
PAGES = ["getting_started.md", "training.md", "deploy.md", "datasets.md", "segmentation.md"]
FEW = {
    "train_net.py": "SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2 TEST.EXPECTED_RESULTS []".split(),
    "tools/lazyconfig_train_net.py": "train.max_iter=2 dataloader.train.total_batch_size=2".split(),
    "tools/generate_shapes.py": ["--num-train", "8", "--num-val", "2"],
    "tools/visualize_data.py": ["--num-images", "2"],
    "tools/visualize_predictions.py": ["--num-images", "2"],
    "tools/visualize_json_results.py": ["--conf-threshold", "0.0"],
}
EXPECTED = {
    "getting_started.md": [
        "output/quickstart/predictions.png",
        "output/quickstart/learning_curves.png",
        "output/drawn/000001.jpg",
        "output/attention.png",
    ],
    "training.md": ["output/data", "output/results"],
    "deploy.md": ["output/exported/model.ts", "output/quickstart/fpn.pth"],
    "datasets.md": [],
    "segmentation.md": ["predictions.png"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that looks like the repository's."""
    if os.getenv("DETECTRON2_DATASETS"):
        pytest.skip("the bundled data have been registered under DETECTRON2_DATASETS, which is not to be written to")
    folder = tmp_path_factory.mktemp("pages")
    for name in ("configs", "tools", "demo", "train_net.py"):
        (folder / name).symlink_to(ROOT / name)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield folder
    torch.set_num_threads(threads)


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_run(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    blocks = [block for block in blocks_of(page) if not block.needs]
    assert blocks
    for words in (words for block in blocks for words in block.commands):
        run(words, monkeypatch)
    for file in EXPECTED[page]:
        path = folder / file
        assert any(path.iterdir()) if path.is_dir() else path.stat().st_size > 1000, file
    forget_loggers()


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert words[0] == "python", words
    script, *args = words[1:]
    if script == "tools/generate_shapes.py" and (Path("datasets/fpt_shapes").exists() and not args):
        return  # a page for those who have not read the one before
    few = FEW.get(script, [])
    monkeypatch.setattr(sys, "argv", [script, *(few + args if few and few[0].startswith("--") else args + few)])
    monkeypatch.syspath_prepend(str((ROOT / script).parent))
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert not end.code, f"{' '.join(words)}: {end.code}"
