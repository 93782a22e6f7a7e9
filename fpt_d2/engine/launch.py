"""The processes of one training: those that ``--num-gpus`` asks for, or those that torchrun or srun has started."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm

from ..cli import DEFAULT_TIMEOUT
from ..errors import LostProcess, interruption
from .cluster import Place, check_address, check_processes, place_from_environment
from .failures import in_sentences
from .lock import held, unlock_all
from .meeting import is_there, meet, wait_for, wait_for_all
from .processes import run_processes
from .resumption import go_on
from .setup import check_arguments

# Seconds that the other processes wait for the first to check the config, and it for them to hear of a refusal.
_CHECK_SECONDS, _REFUSAL_SECONDS = 7200, 20
# What the first process says of the config in the store: its device, or this.
_DEVICE, _REFUSED = "fpt_d2/device", "refused"
# Set once the first process has found nothing wrong: torchrun starts again what was refused, too.
_BEGUN = "fpt_d2/begun"

Main = Callable[[argparse.Namespace], Any]
Check = Callable[[argparse.Namespace], str]


def launch(main: Main, args: argparse.Namespace, check: Check = check_arguments) -> None:
    """Run ``main(args)`` in one process, in ``--num-gpus`` on each of ``--num-machines``, or as one of torchrun's or
    srun's. Several processes talk over gloo where the model is on the CPU, over NCCL where it is on GPUs.

    Args:
        main: a function that :mod:`pickle` can name.
        args: of :func:`fpt_d2.cli.training_parser`. What the environment says of the processes is put into it, and
            ``resume`` where torchrun starts them again.
        check: checks the config of several processes, once and before they talk; returns its device.

    Raises:
        UserError: something that the user can mend.
    """
    place = place_from_environment(args)
    try:
        with in_sentences(timeout=_timeout(args)):
            if place is not None:
                _take_part(main, args, place, check)
            elif args.num_gpus * args.num_machines == 1:
                main(args)
            else:
                _start(main, args, check)
    except KeyboardInterrupt as error:
        if place is not None and place.rank > 0:  # the first process says it
            sys.exit(128 + interruption(error))
        raise
    finally:
        unlock_all()


def _start(main: Main, args: argparse.Namespace, check: Check) -> None:
    check_processes(args)
    check_address(args)
    device, count = check(args), args.num_gpus
    url = f"tcp://127.0.0.1:{_free_port()}" if args.dist_url == "auto" else args.dist_url
    first, processes = args.machine_rank * count, count * args.num_machines
    places = [Place(first + rank, processes, rank, count, url) for rank in range(count)]
    run_processes([partial(_join_and_run, main, args, place, device) for place in places], _remedy)


def _remedy() -> str:
    """For a training, whose folder this process holds, or an evaluation."""
    return next(map(go_on, held()), "start it again")


def _take_part(main: Main, args: argparse.Namespace, place: Place, check: Check) -> None:
    """Be one of the processes that something else has started. The first checks the config for all."""
    common = meet(place, _timeout(args))
    # torchrun keeps its store when it starts the processes again, with the addresses of those before.
    store = dist.PrefixStore(f"fpt_d2/{_restarts()}/{place.processes}", common)
    if _restarts() > 0 and not args.eval_only and is_there(common, _BEGUN):
        args.resume = True
    if place.rank > 0:
        device = wait_for(store, _DEVICE, _CHECK_SECONDS)
        store.set(f"{_DEVICE}/{place.rank}", "")
        if device == _REFUSED:
            sys.exit(2)  # the first process says why
    else:
        device = _check_for_all(args, place, check, store)
        common.set(_BEGUN, "")
        store.set(_DEVICE, device)
    args.is_checked = True
    _join_and_run(main, args, place, device, store)


def _check_for_all(args: argparse.Namespace, place: Place, check: Check, store: dist.Store) -> str:
    """Check the config; whatever prevents it ends the other processes, too."""
    try:
        return check(args)
    except BaseException as error:
        store.set(_DEVICE, _REFUSED)
        if isinstance(error, Exception):  # not a signal, which they have got themselves
            with suppress(LostProcess):  # one that has not started: it will not find us
                for rank in range(1, place.processes):
                    wait_for(store, f"{_DEVICE}/{rank}", _REFUSAL_SECONDS / (place.processes - 1))
        raise


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def _join_and_run(
    main: Main, args: argparse.Namespace, place: Place, device: str, store: dist.Store | None = None
) -> None:
    if place.processes > 1:
        _join(args, place, device, store)
    with in_sentences(timeout=_timeout(args)):
        main(args)


def _join(args: argparse.Namespace, place: Place, device: str, store: dist.Store | None) -> None:
    is_on_gpu, timeout = torch.device(device).type == "cuda", _timeout(args)
    if is_on_gpu:
        torch.cuda.set_device(place.gpu)
    store = store or meet(place, timeout)
    wait_for_all(store, place, timeout)
    with in_sentences(timeout=timeout):
        dist.init_process_group(
            "nccl" if is_on_gpu else "gloo",
            store=store,
            rank=place.rank,
            world_size=place.processes,
            timeout=timedelta(seconds=timeout),
        )
        comm.create_local_process_group(place.on_machine)
        comm.synchronize()


def _timeout(args: argparse.Namespace) -> int:
    """Detectron2's parser does not have it."""
    return int(getattr(args, "timeout", DEFAULT_TIMEOUT))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
