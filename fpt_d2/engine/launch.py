"""The processes of one training: those that ``--num-gpus`` asks for, or those that torchrun or srun has started."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm

from ..cli import DEFAULT_TIMEOUT
from ..errors import ConfigError, UserError
from .cluster import Place, place_from_environment
from .failures import in_sentences
from .lock import unlock_all
from .processes import run_processes
from .setup import check_arguments

# How long the other processes wait for the first to check the config, and it for them to hear of a refusal.
_CHECK_TIMEOUT = timedelta(hours=2)
_REFUSAL_TIMEOUT = timedelta(seconds=20)
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
    if place is None and _restarts() > 0 and not args.eval_only:
        args.resume = True
    try:
        with in_sentences(timeout=_timeout(args)):
            if place is not None:
                _take_part(main, args, place, check)
            elif args.num_gpus * args.num_machines == 1:
                main(args)
            else:
                _start(main, args, check)
    finally:
        unlock_all()


def _start(main: Main, args: argparse.Namespace, check: Check) -> None:
    _check_address(args)
    device, count = check(args), args.num_gpus
    url = f"tcp://127.0.0.1:{_free_port()}" if args.dist_url == "auto" else args.dist_url
    first, processes = args.machine_rank * count, count * args.num_machines
    places = [Place(first + rank, processes, rank, count, url) for rank in range(count)]
    run_processes([partial(_join_and_run, main, args, place, device) for place in places])


def _check_address(args: argparse.Namespace) -> None:
    number, url = args.num_machines, args.dist_url
    if number > 1 and (url == "auto" or "://127.0.0.1:" in url or "://localhost:" in url):
        raise ConfigError(f"--num-machines {number} needs --dist-url tcp://HOST:PORT, an address of the first machine")


def _take_part(main: Main, args: argparse.Namespace, place: Place, check: Check) -> None:
    """Be one of the processes that something else has started. The first checks the config for all."""
    common = _meet(place, _timeout(args))
    # torchrun keeps its store when it starts the processes again, with the addresses of those before.
    store = dist.PrefixStore(f"fpt_d2/{_restarts()}/{place.processes}", common)
    while isinstance(common, dist.PrefixStore):  # of this start alone
        common = common.underlying_store
    if _restarts() > 0 and not args.eval_only and common.check([_BEGUN]):
        args.resume = True
    if place.rank > 0:
        store.wait([_DEVICE], _CHECK_TIMEOUT)
        store.set(f"{_DEVICE}/{place.rank}", "")
        device = store.get(_DEVICE).decode()
        if device == _REFUSED:
            sys.exit(2)  # the first process says why
    else:
        try:
            device = check(args)
        except UserError:
            store.set(_DEVICE, _REFUSED)
            _wait_for_others(store, place.processes)
            raise
        common.set(_BEGUN, "")
        store.set(_DEVICE, device)
    _join_and_run(main, args, place, device, store)


def _wait_for_others(store: dist.Store, processes: int) -> None:
    try:
        store.wait([f"{_DEVICE}/{rank}" for rank in range(1, processes)], _REFUSAL_TIMEOUT)
    except RuntimeError:  # one of them has not started: it will not find us
        pass


def _meet(place: Place, timeout: int) -> dist.Store:
    """The store in which the processes of a training find each other."""
    rank, size = ({}, {}) if place.url == "env://" else ({"rank": place.rank}, {"world_size": place.processes})
    try:
        store: dist.Store
        store, *_ = next(dist.rendezvous(place.url, **rank, **size, timeout=timedelta(seconds=timeout)))
    except (RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"Process {place.rank} of {place.processes} cannot meet the others at {place.address}: {reason}: is each "
            "of them started, and is the address free? --dist-url, or MASTER_ADDR and MASTER_PORT, choose another"
        ) from error
    return store


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def _join_and_run(
    main: Main, args: argparse.Namespace, place: Place, device: str, store: dist.Store | None = None
) -> None:
    is_on_gpu = torch.device(device).type == "cuda"
    if is_on_gpu:
        torch.cuda.set_device(place.gpu)
    with in_sentences(timeout=_timeout(args)):
        dist.init_process_group(
            "nccl" if is_on_gpu else "gloo",
            store=store or _meet(place, _timeout(args)),
            rank=place.rank,
            world_size=place.processes,
            timeout=timedelta(seconds=_timeout(args)),
        )
        comm.create_local_process_group(place.on_machine)
        comm.synchronize()
        main(args)


def _timeout(args: argparse.Namespace) -> int:
    """Detectron2's parser does not have it."""
    return int(getattr(args, "timeout", DEFAULT_TIMEOUT))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
