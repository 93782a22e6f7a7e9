#!/usr/bin/env python
"""Train or evaluate a model under Detectron2: the command line of ``fpt_d2.engine.Trainer``.

python train_net.py --config-file configs/COCO-Detection/faster_rcnn_R_50_FPT_1x.yaml --num-gpus 8
python train_net.py --config-file ... --check      # what that would be
python train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/model_final.pth

What it does stands in fpt_d2/commands/train.py.
"""

from fpt_d2.commands.train import main

if __name__ == "__main__":
    main()
