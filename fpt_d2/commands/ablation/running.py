"""Trainings side by side, and how far they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from queue import SimpleQueue
from threading import Event

from ..common import users_files
from .plan import Training, check_metrics
from .recipe import START

TRAIN = "fpt_d2.commands.train"
PERIOD = 60.0  # seconds from one line about what runs to the next
FIRST = 10.0  # seconds until the first


def environments(jobs: int | None, device: str) -> list[dict[str, str]]:
    """What is set for each of the trainings that run at a time: as many as GPUs or cores where ``jobs`` is None.

    Args:
        jobs: how many; several on the CPU have one thread each.
        device: of the models, as ``MODEL.DEVICE``. "cuda" gives each training one of the GPUs.
    """
    # A waiting thread of OpenMP spins otherwise, and takes the core that another training needs.
    common = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
    gpus = _gpus() if device.startswith("cuda") else []
    jobs = jobs or len(gpus) or _cores()
    if jobs > 1:
        common["OMP_NUM_THREADS"] = "1"
    return [common | ({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {}) for i in range(jobs)]


def _gpus() -> list[str]:
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def train_all(
    trainings: Sequence[Training],
    slots: Sequence[Mapping[str, str]],
    metrics: Sequence[str],
    step_seconds: Mapping[str, float],
) -> list[str]:
    """Train by ``fpt-train``, one training in each slot; what it prints is in each folder's ``log.txt``.

    After a failure or Ctrl-C no further training begins; those that run are waited for.

    Args:
        slots: environment of each of the trainings that run at a time.
        metrics: what each must have been evaluated for.
        step_seconds: by variant, from which the time that is left is estimated; may be empty.

    Returns:
        The last words of those that failed.

    Raises:
        UserError: one was evaluated without one of ``metrics``.
    """
    free: SimpleQueue[Mapping[str, str]] = SimpleQueue()
    for slot in slots:
        free.put(slot)
    stop, progress, failures = Event(), Progress(trainings, metrics, step_seconds), []

    def train(training: Training) -> str:
        if stop.is_set():
            return ""
        slot = free.get()
        try:
            progress.begin(training)
            if not (failure := _train(training, os.environ | slot)):
                check_metrics(training.variant, training.curves(), metrics)
                progress.end(training)
                return ""
            failure = f"{training.variant}, seed {training.seed} failed:\n{failure}"
        except BaseException:
            stop.set()  # here, before this thread takes the next one
            raise
        finally:
            progress.leave(training)
            free.put(slot)
        stop.set()
        return failure

    with ThreadPoolExecutor(len(slots)) as pool:
        try:
            pending, seconds = {pool.submit(train, training) for training in trainings}, FIRST
            while pending:
                done, pending = wait(pending, timeout=seconds, return_when=FIRST_COMPLETED)
                failures += [future.result() for future in done]
                if not done:
                    progress.tell_running()
                    seconds = PERIOD
        finally:
            stop.set()
    return [failure for failure in failures if failure]


class Progress:
    """Says on standard output which training has ended, which ones run, and how long all will take."""

    def __init__(
        self, trainings: Sequence[Training], metrics: Sequence[str], step_seconds: Mapping[str, float]
    ) -> None:
        self._trainings, self._metrics = trainings, metrics
        self._running: dict[Training, float] = {}
        self._weights = {t: t.iterations * step_seconds.get(t.variant, 1.0) for t in trainings}
        self._start, self._before, self._ended = time.monotonic(), self._done(), 0

    def begin(self, training: Training) -> None:
        self._running[training] = time.monotonic()

    def leave(self, training: Training) -> None:
        self._running.pop(training, None)

    def end(self, training: Training) -> None:
        self._ended += 1
        ends = training.curves()
        scores = ", ".join(f"{metric} {ends[metric][-1][1]:.2f}" for metric in self._metrics)
        seconds = time.monotonic() - self._running[training]
        count, name = f"[{self._ended} of {len(self._trainings)}]", f"{training.variant}, seed {training.seed}"
        print(f"{count} {name}: {scores}; {_duration(seconds)}{self._left()}", flush=True)

    def tell_running(self) -> None:
        names = [f"{t.variant}, seed {t.seed}: {self._where(t)}" for t in list(self._running)]
        print(f"running: {' | '.join(names)}{self._left()}", flush=True)

    def _where(self, training: Training) -> str:
        record = training.last_record()
        eta = f", {_duration(record['eta_seconds'])} left" if record.get("eta_seconds") else ""
        return f"iteration {record.get('iteration', -1) + 1} of {training.iterations}{eta}"

    def _done(self) -> float:
        """Share of all work, 0 to 1."""
        done = sum(self._weights[t] * (t.last_record().get("iteration", -1) + 1) / t.iterations for t in self._weights)
        return done / sum(self._weights.values()) if self._weights else 1.0

    def _left(self) -> str:
        done = self._done()
        if done <= self._before or done >= 1:
            return ""
        seconds = (time.monotonic() - self._start) * (1 - done) / (done - self._before)
        return f"; all: about {_duration(seconds)} left"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _train(training: Training, environment: Mapping[str, str]) -> str:
    return run_training([training.config_file, "--resume", *training.opts], environment)


def run_training(words: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """The end of what went wrong, or nothing."""
    command = [sys.executable, "-m", TRAIN, "--config-file", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.stderr[-2000:] or f"it ended with status {done.returncode}" if done.returncode else ""


def evaluate_start(training: Training, output: Path, metrics: Sequence[str]) -> dict[str, float]:
    """Every metric of the weights that ``training`` starts from; evaluated once.

    Raises:
        SystemExit: the evaluation failed; its last words are shown.
        UserError: one of ``metrics`` is not among them.
    """
    from detectron2.evaluation.testing import flatten_results_dict

    file = output / START / "evaluation.json"
    if not file.exists():
        words = [training.config_file, "--eval-only", *training.opts, "OUTPUT_DIR", str(file.parent)]
        if failure := run_training(words):
            raise SystemExit(f"The evaluation of MODEL.WEIGHTS failed:\n{failure}")
    with users_files():
        results = flatten_results_dict(json.loads(file.read_text(encoding="utf-8")))
    start = {metric: value for metric, value in results.items() if value is not None}  # what was NaN
    check_metrics(START, start, metrics)
    return {metric: start[metric] for metric in metrics}
