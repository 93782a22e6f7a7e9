"""Train or evaluate a model under Detectron2."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

from ..cli import exit_on_user_errors, training_parser
from ..config_path import find_config_file


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """The work of one process."""
    from ..engine import Trainer, setup

    cfg = setup(args, Trainer)
    if args.eval_only:
        return Trainer.evaluate(cfg, resume=args.resume)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


@exit_on_user_errors()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line ``argv``, that of the process by default."""
    args = training_parser().parse_args(argv)
    args.config_file = find_config_file(args.config_file)
    if args.check:
        from ..engine.cluster import is_first
        from ..engine.dry_run import dry_run

        if is_first(args):
            print(dry_run(args))
        return
    # Now, because it takes seconds, which --help and a wrong path need not wait for.
    from ..engine import Trainer, check_arguments, launch

    launch(run, args, partial(check_arguments, trainer=Trainer))


if __name__ == "__main__":
    main()
