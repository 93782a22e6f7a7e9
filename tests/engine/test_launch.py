"""Which process of a training one is, and how the processes of a training end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from functools import partial
from pathlib import Path

import pytest
from torch.distributed import HashStore

from fpt_d2.engine.cluster import Place, first_host, gpus_seen, place_from_environment
from fpt_d2.engine.hardware import check_device
from fpt_d2.engine.launch import _free_port as free_port
from fpt_d2.engine.meeting import meet, wait_for, wait_for_all
from fpt_d2.engine.processes import run_processes
from fpt_d2.errors import ConfigError, LostProcess, Terminated, TrainingError

launch = sys.modules["fpt_d2.engine.launch"]  # whose name is that of its function, too
ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
TORCHRUN |= {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
SRUN = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_JOB_ID": "20007"}
SRUN |= {"SLURM_JOB_NODELIST": "node[03-04]"}


def place(monkeypatch: pytest.MonkeyPatch, env: dict[str, str], **options: int) -> tuple[Place | None, Namespace]:
    for name in [n for n in os.environ if n.startswith(("SLURM_", "TORCHELASTIC_"))] + [*TORCHRUN, "ENVIRONMENT"]:
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    args = Namespace(**{"num_gpus": 1, "num_machines": 1, "machine_rank": 0, **options})
    return place_from_environment(args), args


def test_the_environment_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    found, args = place(monkeypatch, TORCHRUN)
    assert found == Place(rank=3, processes=4, local_rank=1, on_machine=2, url="env://")
    assert (args.num_gpus, args.num_machines, args.machine_rank) == (2, 2, 1)
    assert found.gpu == 1 and found.address == "node1:29500"


def test_torchrun_is_asked_too_where_it_starts_a_single_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may start it again."""
    single = {**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    found, args = place(monkeypatch, {**single, "TORCHELASTIC_USE_AGENT_STORE": "True"})
    assert found is not None and found.has_store and (args.num_gpus, args.num_machines) == (1, 1)


def test_with_gpus_per_task_each_process_sees_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"is_available": True, "device_count": 1}.items():
        monkeypatch.setattr(f"torch.cuda.{name}", lambda value=value: value)
    _, args = place(monkeypatch, {**SRUN, "SLURM_GPUS_PER_TASK": "1"})
    check_device("cuda", gpus_seen(args), key="MODEL.DEVICE", on_cpu="MODEL.DEVICE cpu")
    _, args = place(monkeypatch, SRUN)
    with pytest.raises(ConfigError, match="--num-gpus is 4, but PyTorch finds 1"):
        check_device("cuda", gpus_seen(args), key="MODEL.DEVICE", on_cpu="MODEL.DEVICE cpu")


def test_the_environment_of_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    found, args = place(monkeypatch, SRUN)
    assert found == Place(rank=5, processes=8, local_rank=1, on_machine=4, url="tcp://node03:20007")
    assert (args.num_gpus, args.num_machines, args.machine_rank) == (4, 2, 1)
    found, _ = place(monkeypatch, {**SRUN, "SLURM_GPUS_PER_TASK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "7"})
    assert found is not None and found.gpu == 0 and found.url == "tcp://h:7"


@pytest.mark.parametrize(
    ("env", "options"),
    [
        ({}, {"num_gpus": 2}),
        ({**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, {}),
        ({**SRUN, "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NNODES": "1"}, {}),
        ({**SRUN, "ENVIRONMENT": "BATCH"}, {}),  # the script, in which srun would start the tasks
        ({**SRUN, "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}, {"num_gpus": 8, "num_machines": 2}),
    ],
)
def test_no_process_among_others(env, options, monkeypatch: pytest.MonkeyPatch) -> None:
    found, args = place(monkeypatch, env, **options)
    assert found is None and vars(args).items() >= options.items()


@pytest.mark.parametrize(
    ("env", "options", "sentence"),
    [
        (
            TORCHRUN,
            {"num_gpus": 3},
            "--num-gpus 3 --num-machines 1 contradicts torchrun, which has started 2 processes",
        ),
        (TORCHRUN, {"num_machines": 2}, "contradicts torchrun"),
        ({**TORCHRUN, "WORLD_SIZE": "3"}, {}, "start as many processes on every machine"),
        ({**TORCHRUN, "WORLD_SIZE": "0", "LOCAL_WORLD_SIZE": "0"}, {}, "start as many processes on every machine"),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "0"}, {}, "start as many processes on every machine"),
        ({**TORCHRUN, "RANK": "9" * 5000}, {}, "RANK is '999"),
        ({**TORCHRUN, "RANK": "x"}, {}, "RANK is 'x' in the environment"),
        ({**TORCHRUN, "MASTER_ADDR": ""}, {}, "MASTER_ADDR is not"),
        ({**TORCHRUN, "MASTER_PORT": "70000"}, {}, "MASTER_PORT is 70000 in the environment"),
        ({**SRUN, "MASTER_PORT": "0"}, {}, "MASTER_PORT is 0 in the environment"),
        ({**SRUN, "SLURM_NTASKS": "two"}, {}, "SLURM_NTASKS is 'two' in the environment"),
        ({**SRUN, "SLURM_STEP_NUM_NODES": "x"}, {}, "SLURM_STEP_NUM_NODES is 'x' in the environment"),
        ({**SRUN, "SLURM_NTASKS": "7"}, {}, "start as many processes"),
    ],
)
def test_what_contradicts_itself(env, options, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=sentence):
        place(monkeypatch, env, **options)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("a", "a"), ("a,b", "a"), ("n[03-05,9],b", "n03"), ("r[1-2]n[4-5]", "r1n4"), ("a-b[7]c", "a-b7c")],
)
def test_the_first_host(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


def a_place(rank: int, processes: int = 2, port: int = 0) -> Place:
    return Place(rank, processes, rank, processes, f"tcp://127.0.0.1:{port or free_port()}")


def test_nobody_at_the_address(capfd) -> None:
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"Process 1 of 2 finds nobody at 127.0.0.1:\d+ in 1 seconds \(.*refused"):
        meet(a_place(1), 1)
    with pytest.raises(ConfigError, match=r"finds nobody at no.such..host:1 in 1 seconds"):
        meet(Place(1, 2, 1, 2, "tcp://no.such..host:1"), 1)
    assert time.monotonic() - start < 10 and capfd.readouterr().err == ""


def test_a_process_that_does_not_come() -> None:
    first = a_place(0)
    store = meet(first, 1)
    with pytest.raises(ConfigError, match="Process 1 of 2 has not come to 127.0.0.1:.* in 1 seconds"):
        wait_for_all(store, first, 1)
    other = meet(a_place(1, port=first.server[1]), 1)
    other.set("fpt_d2/here/1", "")
    wait_for_all(store, first, 1)


def test_a_first_process_that_is_gone_is_said(capfd) -> None:
    script = "import sys, time; from tests.engine.test_launch import a_place, meet; "
    script += "store = meet(a_place(0, port=int(sys.argv[1])), 9); print('there', flush=True); time.sleep(60)"
    port, environment = free_port(), {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, str(port)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"there\n"
        store = meet(a_place(1, port=port), 5)
        first.kill()
        first.wait()
        with pytest.raises(LostProcess, match="first process of the training has ended"):
            wait_for(store, "config", 30)


@pytest.mark.parametrize("error", [ConfigError("No"), ValueError("ours"), Terminated(15)], ids=repr)
def test_what_ends_the_first_process_in_its_check_ends_the_others(error: BaseException, monkeypatch) -> None:
    monkeypatch.setattr(launch, "_REFUSAL_SECONDS", 0.2)
    store = HashStore()
    with pytest.raises(type(error)):
        launch._check_for_all(Namespace(), a_place(0), lambda args: rise(error), store)
    monkeypatch.setattr(launch, "meet", lambda *_: store)
    monkeypatch.setattr(launch.dist, "PrefixStore", lambda _, store: store)
    args = Namespace(eval_only=False, timeout=5)
    with pytest.raises(SystemExit) as end:
        launch._take_part(rise, args, a_place(1), rise)
    assert end.value.code == 2


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_single_process_is_resumed_only_where_its_first_start_has_begun(is_begun: bool, monkeypatch) -> None:
    store, seen = HashStore(), []
    if is_begun:
        store.set("fpt_d2/begun", "")
    monkeypatch.setattr(launch, "place_from_environment", lambda args: a_place(0, 1))
    monkeypatch.setattr(launch, "meet", lambda *_: store)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    args = Namespace(eval_only=False, resume=False, timeout=5)
    launch.launch(lambda args: seen.append((args.resume, args.is_checked)), args, lambda args: "cpu")
    assert seen == [(is_begun, True)]


def rise(error: BaseException) -> None:
    raise error


def wait_for_signal() -> None:
    """End by the signal that is passed on, as a training does."""

    def stop(signum: int, frame: object) -> None:
        raise Terminated(signum)

    signal.signal(signal.SIGTERM, stop)
    print("waiting", flush=True)
    time.sleep(120)


SLEEP = partial(time.sleep, 120)


@pytest.mark.parametrize(
    ("work", "sentence"),
    [
        (partial(rise, TrainingError("The disk is full")), "^The disk is full$"),
        (partial(os._exit, 7), "Process 0 of 2 ended with status 7: start it again$"),
        (partial(rise, LostProcess("No answer")), r"No answer \(process 1 of 2 on this machine is the one that is sil"),
    ],
    ids=["refused", "died", "lost"],
)
def test_a_failure_of_one_ends_both_in_a_sentence(work: partial, sentence: str, capfd) -> None:
    start = time.monotonic()
    with pytest.raises(TrainingError, match=sentence):
        run_processes([work, SLEEP])
    assert time.monotonic() - start < 100
    assert "Traceback" not in capfd.readouterr().err


def test_a_mistake_of_ours_keeps_its_traceback_once(capfd) -> None:
    with pytest.raises(SystemExit) as end:
        run_processes([partial(rise, ValueError("ours")), partial(rise, ValueError("ours"))])
    assert end.value.code == 1
    error = capfd.readouterr().err
    assert error.count("Traceback") == 1 and "ValueError: ours" in error


SCRIPT = """
import sys
from fpt_d2.cli import exit_on_user_errors
from fpt_d2.engine.processes import run_processes
from tests.engine.test_launch import wait_for_signal
if __name__ == "__main__":
    exit_on_user_errors()(run_processes)([wait_for_signal] * 2)
"""


def test_a_signal_to_the_parent_alone_stops_all(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "script.py")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert [process.stdout.readline() for _ in range(2)] == [b"waiting\n"] * 2
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert error.decode().splitlines()[-1] == "script.py: Interrupted"


def test_a_signal_to_all_while_they_start_is_one_sentence(tmp_path: Path) -> None:
    """The imports of the processes take seconds, in which nothing of ours could answer."""
    is_up = "import sys\nimport os\nos.write(1, b'up\\n')"  # at once, or two lines may run into each other
    (tmp_path / "script.py").write_text(SCRIPT.replace("import sys", is_up))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "script.py")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as process:
        assert [process.stdout.readline() for _ in range(3)] == [b"up\n"] * 3
        os.killpg(process.pid, signal.SIGINT)
        output, error = process.communicate(timeout=120)
    assert process.returncode == 130 and b"waiting" not in output
    assert error.decode().splitlines()[-1] == "script.py: Interrupted"
    assert b"Traceback" not in error and error.count(b"Interrupted") == 1
