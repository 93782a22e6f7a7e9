"""Which process of a training this one is, as torchrun, srun or the command line says."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from detectron2.utils import comm

from ..errors import ConfigError, require

# Of srun's jobs, from here on by the job's number, so that two on a machine do not meet.
_FIRST_PORT, _NUM_PORTS = 20000, 20000


@dataclass(frozen=True)
class Place:
    """A process among those of its training.

    Attributes:
        rank: its number, from 0.
        processes: how many there are.
        local_rank: its number on its machine.
        on_machine: how many there are on each machine.
        url: where they meet: ``tcp://HOST:PORT``, ``file:///PATH``, or ``env://`` for what torchrun has set.
        own_gpu: it sees no GPU but its own.
        has_store: torchrun serves the store in which they meet.
    """

    rank: int
    processes: int
    local_rank: int
    on_machine: int
    url: str
    own_gpu: bool = False
    has_store: bool = False

    @property
    def gpu(self) -> int:
        return 0 if self.own_gpu else self.local_rank

    @property
    def server(self) -> tuple[str, int]:
        """Host and port of the process that has the store."""
        if self.url == "env://":
            return os.environ.get("MASTER_ADDR", ""), _port(os.environ)
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 0

    @property
    def address(self) -> str:
        return self.url if self.url.startswith("file:") else "{}:{}".format(*self.server)


def check_processes(args: argparse.Namespace) -> None:
    """Raises ConfigError if the options of several processes make no sense."""
    number, rank, url = args.num_machines, args.machine_rank, args.dist_url
    require(number > 0, f"--num-machines is {number}; allowed: a positive number")
    numbers = f"a number from 0 to {number - 1}, as there are {number} machines" if number > 1 else "0 for one machine"
    require(0 <= rank < number, f"--machine-rank is {rank}; allowed: {numbers}")
    allowed = "tcp://HOST:PORT, file:///PATH, or auto for one machine"
    require(_is_url(url), f"--dist-url is {url!r}; allowed: {allowed}")
    if is_dry(args):
        check_address(args)


def check_address(args: argparse.Namespace) -> None:
    """Raises ConfigError if other machines could not find the first one."""
    number, url = args.num_machines, args.dist_url
    is_own = url == "auto" or urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
    needs = f"--num-machines {number} needs --dist-url tcp://HOST:PORT, an address of the first machine"
    require(number <= 1 or not is_own, needs)


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        is_server = parts.scheme == "tcp" and bool(parts.hostname) and bool(parts.port)
    except ValueError:  # a port that is not a number up to 65535
        return False
    is_file = parts.scheme == "file" and not parts.netloc and len(parts.path) > 1
    return url == "auto" or is_file or (is_server and parts.path in ("", "/"))


def gpus_seen(args: argparse.Namespace) -> int:
    """How many GPUs a process has to see: those of all processes on its machine, or with srun's help its own."""
    return 1 if getattr(args, "own_gpu", False) else int(args.num_gpus)


def is_dry(args: argparse.Namespace) -> bool:
    """Whether nothing is to be written: ``--check``, which Detectron2's own parser does not have."""
    return getattr(args, "check", False)


def is_checked(args: argparse.Namespace) -> bool:
    """Whether :func:`.launch.launch` has checked the config: for several processes, or for torchrun's single one."""
    return comm.get_world_size() > 1 or getattr(args, "is_checked", False)


def place_from_environment(args: argparse.Namespace) -> Place | None:
    """What torchrun or srun says, which is put into ``args`` too; None where neither has started several processes,
    or torchrun one.

    Raises:
        ConfigError: it contradicts the command line or itself.
    """
    if "LOCAL_RANK" in os.environ and "RANK" in os.environ:
        starter, place = "torchrun", _of_torchrun(os.environ)
    elif _is_task_of_srun(os.environ):
        starter, place = "srun", _of_slurm(os.environ)
        if args.num_machines > 1 or (args.num_gpus > 1 and place.on_machine == 1):
            return None  # srun has started a command for each machine, which starts its processes
    else:
        return None
    if args.num_machines > 1 or args.num_gpus not in (1, place.on_machine):
        asked = f"--num-gpus {args.num_gpus} --num-machines {args.num_machines}"
        raise ConfigError(
            f"{asked} contradicts {starter}, which has started {place.on_machine} processes on this machine of "
            f"{place.processes} in all: leave --num-gpus and --num-machines out"
        )
    if place.processes == 1 and not place.has_store:
        return None
    args.num_gpus, args.num_machines = place.on_machine, place.processes // place.on_machine
    args.machine_rank, args.own_gpu = place.rank // place.on_machine, place.own_gpu
    return place


def is_first(args: argparse.Namespace) -> bool:
    """Whether this is the first of the processes that torchrun or srun has started, or the only one.

    Raises:
        ConfigError: as :func:`place_from_environment`.
    """
    place = place_from_environment(args)
    return place is None or place.rank == 0


def _of_torchrun(env: Mapping[str, str]) -> Place:
    """Also of what sets the same variables, such as Kubernetes' operators."""
    processes = _number(env, "WORLD_SIZE")
    place = Place(
        _number(env, "RANK"),
        processes,
        _number(env, "LOCAL_RANK"),
        _number(env, "LOCAL_WORLD_SIZE", default=str(processes)),
        "env://",
        has_store=env.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not env.get(name)]
    if processes > 1 or place.has_store:
        first = "".join(missing[:1])
        require(not first, f"RANK and WORLD_SIZE are in the environment, but {first} is not: start with torchrun")
        _port(env)
    return _checked(place)


def _is_task_of_srun(env: Mapping[str, str]) -> bool:
    # A batch script has these too, whose number of tasks srun alone would start.
    in_script = env.get("ENVIRONMENT") == "BATCH" and "SLURM_STEP_ID" not in env
    return not in_script and {"SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS"} <= env.keys()


def _of_slurm(env: Mapping[str, str]) -> Place:
    processes = _number(env, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    machines = _number(env, "SLURM_STEP_NUM_NODES", "SLURM_NNODES", default="1")
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or env.get("SLURM_NODELIST") or "127.0.0.1"
    job = int(re.sub(r"\D", "", env.get("SLURM_JOB_ID", ""))[-9:] or 0)
    host = env.get("MASTER_ADDR") or first_host(nodes)
    port = _port(env, default=str(_FIRST_PORT + job % _NUM_PORTS))
    return _checked(
        Place(
            _number(env, "SLURM_PROCID"),
            processes,
            _number(env, "SLURM_LOCALID"),
            max(1, processes // max(1, machines)),
            f"tcp://{host}:{port}",
            own_gpu="SLURM_GPUS_PER_TASK" in env,
        )
    )


def first_host(nodes: str) -> str:
    """``node03`` of ``node[03-05,9],gpu1``, as ``scontrol show hostnames`` would list them."""
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", nodes).split(",")[0]


def _checked(place: Place) -> Place:
    fits = place.on_machine > 0 and place.processes % place.on_machine == 0 and place.local_rank < place.on_machine
    if not fits or not 0 <= place.rank < place.processes:
        raise ConfigError(
            f"The environment says that this is process {place.rank} of {place.processes}, and number "
            f"{place.local_rank} of {place.on_machine} on its machine: start as many processes on every machine"
        )
    return place


def _port(env: Mapping[str, str], *, default: str | None = None) -> int:
    port = _number(env, "MASTER_PORT", default=default)
    require(0 < port < 2**16, f"MASTER_PORT is {port} in the environment; allowed: a port, 1 to 65535")
    return port


def _number(env: Mapping[str, str], *names: str, default: str | None = None) -> int:
    """The value of the first of these variables that is there."""
    name = next((n for n in names if n in env), names[0])
    text = env.get(name, default)
    if text is None or not text.isdecimal() or len(text) > 9:
        raise ConfigError(
            f"{name} is {text and text[:40]!r} in the environment; allowed: a whole number, which torchrun or srun sets"
        )
    return int(text)
