"""Which process of a training this one is, as torchrun or srun says in the environment."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ConfigError

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
        url: where they meet, for ``torch.distributed.rendezvous``.
        own_gpu: it sees no GPU but its own.
    """

    rank: int
    processes: int
    local_rank: int
    on_machine: int
    url: str
    own_gpu: bool = False

    @property
    def gpu(self) -> int:
        return 0 if self.own_gpu else self.local_rank

    @property
    def address(self) -> str:
        env = os.environ
        return f"{env.get('MASTER_ADDR')}:{env.get('MASTER_PORT')}" if self.url == "env://" else self.url


def place_from_environment(args: argparse.Namespace) -> Place | None:
    """What torchrun or srun says, which is put into ``args`` too; None where neither has started several processes.

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
    if place.processes == 1:
        return None
    args.num_gpus, args.num_machines = place.on_machine, place.processes // place.on_machine
    args.machine_rank = place.rank // place.on_machine
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
        _number(env, "LOCAL_WORLD_SIZE", str(processes)),
        "env://",
    )
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not env.get(name)]
    if missing and processes > 1:
        raise ConfigError(f"RANK and WORLD_SIZE are in the environment, but {missing[0]} is not: start with torchrun")
    return _checked(place)


def _is_task_of_srun(env: Mapping[str, str]) -> bool:
    # A batch script has these too, whose number of tasks srun alone would start.
    in_script = env.get("ENVIRONMENT") == "BATCH" and "SLURM_STEP_ID" not in env
    return not in_script and {"SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS"} <= env.keys()


def _of_slurm(env: Mapping[str, str]) -> Place:
    processes = _number(env, "SLURM_STEP_NUM_TASKS", env["SLURM_NTASKS"])
    machines = _number(env, "SLURM_STEP_NUM_NODES", env.get("SLURM_NNODES", "1"))
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or env.get("SLURM_NODELIST") or "127.0.0.1"
    job = int(re.sub(r"\D", "", env.get("SLURM_JOB_ID", "")) or 0)
    host = env.get("MASTER_ADDR") or first_host(nodes)
    port = _number(env, "MASTER_PORT", str(_FIRST_PORT + job % _NUM_PORTS))
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
    fits = place.processes % place.on_machine == 0 and place.local_rank < place.on_machine
    if not fits or not 0 <= place.rank < place.processes:
        raise ConfigError(
            f"The environment says that this is process {place.rank} of {place.processes}, and number "
            f"{place.local_rank} of {place.on_machine} on its machine: start as many processes on every machine"
        )
    return place


def _number(env: Mapping[str, str], name: str, default: str | None = None) -> int:
    text = env.get(name, default)
    if text is None or not text.isdecimal():
        raise ConfigError(
            f"{name} is {text!r} in the environment; allowed: a whole number, which torchrun or srun sets"
        )
    return int(text)
