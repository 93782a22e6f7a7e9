"""Two processes on the CPU, talking over gloo, against one."""

import json
import os
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.engine import launch
from detectron2.utils import comm
from PIL import Image

from fpt_d2.engine import Trainer, setup
from fpt_d2.engine.hooks import AGREEMENT_PERIOD
from fpt_d2.engine.validation import validation_losses

ROOT = Path(__file__).resolve().parents[2]
# Every anchor and every proposal counts, and each image has as many of them: losses are then averages over images, so
# that two processes with one image each compute what one process does with both.
EXACT = ["MODEL.RPN.BATCH_SIZE_PER_IMAGE", 100000, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 100000]
EXACT += ["MODEL.RPN.PRE_NMS_TOPK_TRAIN", 5000, "MODEL.RPN.POST_NMS_TOPK_TRAIN", 5000, "MODEL.RPN.NMS_THRESH", 2.0]
EXACT += ["MODEL.MASK_ON", False, "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", False]
EXACT += ["MODEL.RESNETS.NORM", "FrozenBN", "INPUT.RANDOM_FLIP", "none"]
EXACT += ["MODEL.FPT.ZERO_INIT_FUSE", False, "MODEL.FPT.DROP_BLOCK_PROB", 0.0]
EXACT += ["DATALOADER.ASPECT_RATIO_GROUPING", False, "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", 64]


@pytest.fixture
def two_images(tmp_path: Path) -> list[object]:
    """Config words that select a data set of two images of one size."""
    rng = np.random.default_rng(0)
    boxes = [[[4, 4, 30, 25]], [[10, 20, 40, 30], [2, 2, 12, 16], [30, 5, 20, 12]]]
    content = {"categories": [{"id": i, "name": f"c{i}"} for i in range(1, 7)], "images": [], "annotations": []}
    for image_id, image_boxes in enumerate(boxes):
        name = f"{image_id}.png"
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / name)
        content["images"].append({"id": image_id, "file_name": name, "height": 64, "width": 64})
        for box in image_boxes:
            ids = {"id": len(content["annotations"]) + 1, "image_id": image_id, "category_id": 1 + len(box) % 6}
            content["annotations"].append({**ids, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    (tmp_path / "two.json").write_text(json.dumps(content))
    # The name is of this folder, because registered names stay.
    name = f"two_{tmp_path.name}"
    entry = [name, str(tmp_path / "two.json"), str(tmp_path)]
    return ["DATASETS.REGISTER_COCO", [entry], "DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)"]


def take_a_step(args: Namespace, result: str) -> None:
    """Save the first step's gradients and more; then resume, in each process."""
    torch.set_num_threads(1)
    cfg = setup(args)
    trainer = Trainer(cfg)
    validation = validation_losses(cfg, trainer.model)
    trainer.train()
    model = getattr(trainer.model, "module", trainer.model)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    weights = [sum(p.double().sum().item() for p in model.parameters())]
    resumed = Trainer(cfg)
    resumed.resume_or_load(resume=True)
    starts = comm.all_gather((resumed.start_iter, weights))
    if comm.is_main_process():
        results = trainer._last_eval_results["bbox"]["AP"]
        torch.save({"gradients": gradients, "validation": validation, "starts": starts, "AP": results}, result)


def test_two_processes_compute_what_one_does(two_images: list, parse, tmp_path: Path, out: Path) -> None:
    args = parse(*EXACT, *two_images, "SOLVER.MAX_ITER", 1)
    launch(take_a_step, 2, dist_url="auto", args=(args, str(tmp_path / "two.pth")))
    assert sorted(path.name for path in out.glob("log.txt*")) == ["log.txt", "log.txt.rank1"]
    args = parse(*EXACT, *two_images, "SOLVER.MAX_ITER", 1, "OUTPUT_DIR", str(out / "one"))
    take_a_step(args, str(tmp_path / "one.pth"))
    two, one = torch.load(tmp_path / "two.pth"), torch.load(tmp_path / "one.pth")
    assert list(two["gradients"]) == list(one["gradients"])
    for name, expected in one["gradients"].items():
        difference = (two["gradients"][name] - expected).norm()
        assert difference <= 1e-4 * expected.norm(), f"{name}: {difference} of {expected.norm()}"
    assert two["validation"] == pytest.approx(one["validation"], rel=1e-5)
    assert two["AP"] == pytest.approx(one["AP"], abs=1e-6)
    (first, weights), (second, same_weights) = two["starts"]
    assert first == second == 1 and weights == same_weights


class InterruptedInOne(Trainer):
    """Ctrl-C in the second process alone, in its third iteration."""

    def run_step(self) -> None:
        if comm.get_rank() == 1 and self.iter == 2:
            os.kill(os.getpid(), signal.SIGINT)
        super().run_step()


def train_interrupted(args: Namespace, result: str) -> None:
    """Save in which iteration each process ended, and its calls of what gathers objects and of ``all_reduce``."""
    torch.set_num_threads(1)
    trainer = InterruptedInOne(setup(args))
    trainer._trainer.gather_metric_period = 10**9  # Detectron2's gather of the losses
    names, ended = ("all_gather_object", "gather_object", "all_reduce"), False
    with mock.patch.multiple("torch.distributed", **{n: mock.Mock(wraps=getattr(dist, n)) for n in names}):
        try:
            trainer.train()
        except KeyboardInterrupt:
            ended = True
        calls = [getattr(dist, name).call_count for name in names]
    ends = comm.all_gather((ended, trainer.iter, calls))
    if comm.is_main_process():
        Path(result).write_text(json.dumps(ends))


def test_an_interruption_of_one_process_ends_both_and_steps_gather_no_objects(parse, tmp_path: Path, out: Path) -> None:
    args = parse("SOLVER.MAX_ITER", 150, "DATASETS.TEST", "()")
    launch(train_interrupted, 2, dist_url="auto", args=(args, str(tmp_path / "ends.json")))
    last = AGREEMENT_PERIOD - 1
    assert json.loads((tmp_path / "ends.json").read_text()) == [[True, last, [0, 0, 1]]] * 2
    assert (out / "last_checkpoint").read_text() == f"model_{last:07d}.pth"
    assert torch.load(out / f"model_{last:07d}.pth")["iteration"] == last
    log = (out / "log.txt.rank1").read_text()
    assert f"Interrupted: stopping within {AGREEMENT_PERIOD} iterations" in log


def test_the_command_line_with_two_processes(command_line, out: Path) -> None:
    words = ["--num-gpus=2", "--dist-url=auto", "TEST.EVAL_PERIOD", 1, "TEST.LOSS", True, "TEST.VIS_IMAGES", 1]
    words += ["TEST.BEST_METRIC", "bbox/AP", "TEST.PATIENCE", 1, "SOLVER.MAX_ITER", 9]
    words += ["SOLVER.BASE_LR", 0.0, "MODEL.RESNETS.NORM", "FrozenBN"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "train_net.py"), *command_line(*words)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr
    # Nothing is learned, so both stop when patience is over.
    assert "Stopped early" in run.stdout
    assert torch.load(out / "model_final.pth")["iteration"] == 1
    assert (out / "last_checkpoint").read_text() == "model_final.pth"
    assert "validation/total_loss" in (out / "metrics.json").read_text()
