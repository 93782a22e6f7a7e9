#!/usr/bin/env python
"""Train or evaluate a model under Detectron2.

python train_net.py --config-file configs/COCO-Detection/faster_rcnn_R_50_FPT_1x.yaml --num-gpus 8
python train_net.py --config-file ... --check      # what that would be
python train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/model_final.pth
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from fpt_d2.cli import exit_on_user_errors, training_parser
from fpt_d2.config_path import check_config_file


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """The work of one process."""
    from fpt_d2.engine import Trainer, setup

    cfg = setup(args, Trainer)
    if args.eval_only:
        return Trainer.evaluate(cfg, resume=args.resume)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


@exit_on_user_errors()
def main() -> None:
    args = training_parser().parse_args()
    check_config_file(args.config_file)
    if args.check:
        from fpt_d2.engine.cluster import is_first
        from fpt_d2.engine.dry_run import dry_run

        if is_first(args):
            print(dry_run(args))
        return
    # Now, because it takes seconds, which --help and a wrong path need not wait for.
    from fpt_d2.engine import Trainer, check_arguments, launch

    launch(run, args, partial(check_arguments, trainer=Trainer))


if __name__ == "__main__":
    main()
