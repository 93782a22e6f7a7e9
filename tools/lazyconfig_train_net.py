#!/usr/bin/env python
"""Train or evaluate a model by a lazy config, one of Detectron2's configs in Python."""

from __future__ import annotations

from collections.abc import Sequence

from fpt_d2.cli import exit_on_user_errors, training_parser

EXAMPLES = """
Examples:
    {prog} --config-file configs/COCO-Detection/fcos_R_50_FPT_1x.py --num-gpus 8
    {prog} --config-file configs/quick_schedules/fcos_R_18_FPT_quickstart.py   # on the CPU
    {prog} --config-file ... --eval-only train.init_checkpoint=output/model_final.pth
"""


@exit_on_user_errors()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line ``argv``, that of the process by default."""
    args = training_parser(EXAMPLES).parse_args(argv)
    from fpt_d2.engine import launch  # now, because it takes seconds, which --help need not wait for
    from fpt_d2.engine.cluster import is_first
    from fpt_d2.engine.lazy import check_lazy_config, run_lazy

    if args.check:
        if is_first(args):
            check_lazy_config(args)
            print("All checks passed")
        return
    launch(run_lazy, args, check_lazy_config)


if __name__ == "__main__":
    main()
