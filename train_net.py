#!/usr/bin/env python
"""Train or evaluate a model under Detectron2.

python train_net.py --config-file configs/COCO-Detection/faster_rcnn_R_50_FPT_1x.yaml --num-gpus 8
python train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/model_final.pth
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from fpt_d2.checkpoint import FPTCheckpointer
from fpt_d2.engine import USER_ERRORS, Trainer, launch, setup


def evaluate(cfg: CfgNode, *, resume: bool) -> dict[str, Any]:
    model = Trainer.build_model(cfg)
    checkpointer = FPTCheckpointer(model, cfg.OUTPUT_DIR, whole=True, input_format=cfg.INPUT.FORMAT)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    results = Trainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results.update(Trainer.test_with_TTA(cfg, model))
    if comm.is_main_process():
        text = json.dumps(_without_nan(results), indent=2, allow_nan=False)
        Path(cfg.OUTPUT_DIR, "evaluation.json").write_text(text + "\n", encoding="utf-8")
        verify_results(cfg, results)
    return results


def _without_nan(results: Any) -> Any:
    """``results`` with None, which JSON has, for NaN: the AP of a class or size that the data set lacks."""
    if isinstance(results, dict):
        return {key: _without_nan(value) for key, value in results.items()}
    return None if isinstance(results, float) and math.isnan(results) else results


def main(args: argparse.Namespace) -> dict[str, Any] | None:
    cfg = setup(args)
    if args.eval_only:
        return evaluate(cfg, resume=args.resume)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    parser = default_argument_parser()
    arguments = parser.parse_args()
    try:
        launch(main, arguments)
    except USER_ERRORS as error:
        parser.exit(2, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "Interrupted: the same command with --resume goes on from the last checkpoint\n")
