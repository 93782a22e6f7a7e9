#!/usr/bin/env python
"""Train or evaluate a model by a lazy config, one of Detectron2's configs in Python.

python tools/lazyconfig_train_net.py --config-file configs/COCO-Detection/fcos_R_50_FPT_1x.py --num-gpus 8
python tools/lazyconfig_train_net.py --config-file configs/quick_schedules/fcos_R_18_FPT_quickstart.py   # on the CPU
python tools/lazyconfig_train_net.py --config-file ... --eval-only train.init_checkpoint=output/model_final.pth
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from detectron2.engine import default_argument_parser

from fpt_d2.checkpoint import FPTCheckpointer
from fpt_d2.engine import USER_ERRORS, launch
from fpt_d2.engine.lazy import (
    build_lazy_model,
    build_lazy_trainer,
    check_lazy_arguments,
    evaluate_lazy,
    setup_lazy,
)


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    cfg = setup_lazy(args)
    if args.eval_only:
        model = build_lazy_model(cfg)
        FPTCheckpointer(model, whole=True).load(cfg.train.init_checkpoint)
        return evaluate_lazy(cfg, model)
    trainer = build_lazy_trainer(cfg, resume=args.resume)
    trainer.train(trainer.start_iter, cfg.train.max_iter)
    return None


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line ``argv``, that of the process by default."""
    parser = default_argument_parser()
    args = parser.parse_args(argv)
    try:
        launch(run, args, check_lazy_arguments)
    except USER_ERRORS as error:
        parser.exit(2, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "Interrupted: the same command with --resume goes on from the last checkpoint\n")


if __name__ == "__main__":
    main()
