"""How the processes of a training find each other: in a store that the first one serves, torchrun, or a file."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

from ..errors import ConfigError, LostProcess
from .cluster import Place

_HERE = "fpt_d2/here"
# Between two looks. torch's own waiting would answer no signal until it ends, and write C++ traces to stderr.
_PAUSE_SECONDS = 0.1


def meet(place: Place, seconds: int) -> dist.Store:
    """The store of the processes of a training.

    Raises:
        ConfigError: it is not there within these seconds, or cannot be made.
    """
    timeout = timedelta(seconds=seconds)
    try:
        if place.url.startswith("file:"):
            store: dist.Store
            store, *_ = next(dist.rendezvous(place.url, place.rank, place.processes, timeout=timeout))
            return store
        is_server = place.rank == 0 and not place.has_store
        if not is_server:
            _await_server(place, seconds)
        host, port = place.server
        return dist.TCPStore(host, port, place.processes, is_server, timeout, wait_for_workers=False, multi_tenant=True)
    except (RuntimeError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"Process {place.rank} of {place.processes} cannot meet the others at {place.address}: {reason}: is the "
            "address free? --dist-url, or MASTER_ADDR and MASTER_PORT, choose another"
        ) from error


def _await_server(place: Place, seconds: int) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(place.server, timeout=min(seconds, 10)).close()
            return
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that can be no host's
            if time.monotonic() < deadline:
                time.sleep(_PAUSE_SECONDS)
                continue
            raise ConfigError(
                f"Process {place.rank} of {place.processes} finds nobody at {place.address} in {seconds} seconds "
                f"(--timeout; {error}): is process 0 started, and is this its address? --dist-url, or MASTER_ADDR and "
                "MASTER_PORT, name another"
            ) from error


def wait_for_all(store: dist.Store, place: Place, seconds: int) -> None:
    """Wait until all processes have come to the store. Raises ConfigError if one has not within these seconds."""
    with first_alive():
        store.set(f"{_HERE}/{place.rank}", "")
    deadline, missing = time.monotonic() + seconds, list(range(place.processes))
    while missing := [rank for rank in missing if not is_there(store, f"{_HERE}/{rank}")]:
        if time.monotonic() > deadline:
            raise ConfigError(
                f"Process {missing[0]} of {place.processes} has not come to {place.address} in {seconds} seconds "
                "(--timeout): start as many as were announced, all with the same address"
            )
        time.sleep(_PAUSE_SECONDS)


def wait_for(store: dist.Store, key: str, seconds: float) -> str:
    """What another process writes into the store. Raises LostProcess if it has not within these seconds."""
    deadline = time.monotonic() + seconds
    while not is_there(store, key):
        if time.monotonic() > deadline:
            raise LostProcess(f"A process of the training has not answered the others for {seconds:.0f} seconds")
        time.sleep(_PAUSE_SECONDS)
    with first_alive():
        return store.get(key).decode()


def is_there(store: dist.Store, key: str) -> bool:
    with first_alive():
        return bool(store.check([key]))


@contextmanager
def first_alive() -> Iterator[None]:
    """Raise LostProcess where the process that serves the store has ended."""
    try:
        yield
    except RuntimeError as error:
        raise LostProcess("The first process of the training has ended, and says why itself") from error
