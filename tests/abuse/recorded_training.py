"""train_net.py that also writes down, at once, the images and losses of each step of each process."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage

from fpt_d2.cli import training_parser
from fpt_d2.engine import Trainer, launch, setup


class Record(HookBase):
    """Appends a line to ``steps.RANK.jsonl`` in the output folder after each step."""

    def __init__(self, path: Path) -> None:
        self._path, self._images = path, []

    def before_train(self) -> None:
        # A function, because a copy of the model, of which validation losses are, has none of a trainer.
        self.trainer.model.register_forward_pre_hook(lambda model, arguments: self._note(*arguments))

    def _note(self, batch: list[dict[str, Any]]) -> None:
        self._images = [[Path(x["file_name"]).name, int(x["image"].sum())] for x in batch]

    def after_step(self) -> None:
        latest = get_event_storage().latest()
        losses = {name: value for name, (value, _) in latest.items() if "loss" in name and "validation" not in name}
        line = {"iteration": self.trainer.iter, "images": self._images, "losses": losses}
        with open(self._path, "a") as file:
            file.write(json.dumps(line) + "\n")


class Recorded(Trainer):
    def build_hooks(self) -> list[HookBase]:
        # Before what saves, so that a step is written down before it is over.
        ret = super().build_hooks()
        return [ret[0], Record(Path(self.cfg.OUTPUT_DIR, f"steps.{comm.get_rank()}.jsonl")), *ret[1:]]


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    trainer = Recorded(setup(args))
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


if __name__ == "__main__":
    args = training_parser().parse_args()
    launch(run, args)
