"""Section "detectors" of the GPU report: Mask R-CNN training as by Detectron2's AMPTrainer, and inference.

Detectors take turns, A B C A B C, so that what the machine does besides falls on all alike.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage

from fpt_d2.commands.measuring import measure_time

from .detectors import detector_config, detectors, random_input
from .findings import Findings, Row, last_line
from .workload import Setting

WARM_UP_STEPS, STEPS = 2, 5
GIB = 2**30
BASELINE = "FPN"
TRAINING = "training"


class Detector:
    """A model with its optimizer.

    Attributes:
        held: bytes of the device that it keeps between its steps.
    """

    def __init__(self, name: str, setting: Setting) -> None:
        start = _allocated(setting.device)
        torch.manual_seed(0)
        cfg = detector_config(name, setting.device)
        # Or random weights, and the products of the rendering, would leave the range of float16.
        cfg.MODEL.PIXEL_STD = [100.0, 100.0, 100.0]
        self.model = build_model(cfg)
        # With the cost of a real one; random weights that moved would soon not be finite.
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0, momentum=0.9, weight_decay=1e-4)
        self.scaler = torch.amp.GradScaler(setting.device, init_scale=2.0**10)
        self._device, self._start = setting.device, start
        self.held = 0

    def settle(self) -> None:
        """Note what is held now that nothing else was allocated since this was made."""
        self.held = _allocated(self._device) - self._start

    def train(self, inputs: list[dict[str, Any]], dtype: torch.dtype) -> None:
        """One step of AMPTrainer, in its order: the gradients of the step before live until the backward pass."""
        self.model.train()
        with EventStorage():
            with torch.autocast(self._device, dtype):
                loss = sum(self.model(inputs).values())
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def infer(self, inputs: list[dict[str, Any]], dtype: torch.dtype) -> None:
        self.model.eval()
        with torch.no_grad(), torch.autocast(self._device, dtype, enabled=dtype != torch.float32):
            self.model(inputs)

    def finish_training(self) -> None:
        """Keep the model alone."""
        self.optimizer.zero_grad()
        del self.optimizer, self.scaler
        self.held = sum(t.numel() * t.element_size() for t in (*self.model.parameters(), *self.model.buffers()))


def detector_section(findings: Findings, device: str, quick: bool, batch: int) -> None:
    """Training first, whose numbers the goals are about."""
    setting = Setting(*((64, 64) if quick else (800, 1333)), batch=1 if quick else batch, device=device)
    half = torch.float16 if device == "cuda" else torch.bfloat16
    findings.note(
        "Random weights, images and boxes; learning rate 0; masks as bitmaps that are on the device, so that no step "
        "waits for the host to draw polygons. Memory is the peak above what the other detectors hold"
    )
    torch.manual_seed(0)
    inputs = [input_with_bitmaps(setting) for _ in range(setting.batch)]
    names = ("FPN", "FPT light") if quick else tuple(detectors(device))
    found: dict[str, Detector] = {}
    for name in names:
        if findings.has_time(f"{name}: first steps at batch {setting.batch}"):
            _start(findings, found, name, setting, inputs, half, 1 if quick else WARM_UP_STEPS)
    _measure(findings, TRAINING, found, partial(Detector.train, inputs=inputs, dtype=half), setting, half, quick)
    for detector in found.values():
        detector.finish_training()
    _free(device)
    one = replace(setting, batch=1)
    single = [input_with_bitmaps(one)]
    for dtype in (half, torch.float32):
        infer = partial(Detector.infer, inputs=single, dtype=dtype)
        errors = _run_all(found, infer, 1 if quick else WARM_UP_STEPS)
        for name, error in errors.items():
            findings.note(f"Inference of {name} in {_name(dtype)} failed: {error}")
        working = {name: detector for name, detector in found.items() if name not in errors}
        _measure(findings, "inference", working, infer, one, dtype, quick)


def _start(
    findings: Findings,
    found: dict[str, Detector],
    name: str,
    setting: Setting,
    inputs: list[dict[str, Any]],
    dtype: torch.dtype,
    steps: int,
) -> None:
    """Make a detector and warm it up; one that cannot train says why in the table."""
    _free(setting.device)
    detector = None
    try:
        detector = Detector(name, setting)
        for _ in range(steps):
            detector.train(inputs, dtype)
        detector.settle()
        found[name] = detector
    except torch.OutOfMemoryError:
        findings.add("detectors", _blank(TRAINING, name, setting, dtype, "ran out of memory"))
    except Exception as error:
        findings.add("detectors", _blank(TRAINING, name, setting, dtype, f"failed: {last_line(error)}"))
    del detector


def _run_all(found: dict[str, Detector], step: Callable[[Detector], None], times: int) -> dict[str, str]:
    """Warm up; what went wrong, by name."""
    errors = {}
    for name, detector in found.items():
        try:
            for _ in range(times):
                step(detector)
        except Exception as error:
            errors[name] = last_line(error)
    return errors


def _measure(
    findings: Findings,
    mode: str,
    found: dict[str, Detector],
    step: Callable[[Detector], None],
    setting: Setting,
    dtype: torch.dtype,
    quick: bool,
) -> None:
    """Add a row for each detector: medians of steps in turn, and the ratios to FPN."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    peaks: dict[str, int] = {}
    errors: dict[str, str] = {}
    rounds = 1 if quick else STEPS
    for i in range(rounds):
        # One round is better than none.
        if i and not findings.has_time(f"{mode} in {_name(dtype)}, round {i + 1} of {rounds}"):
            break
        for name, detector in found.items():
            if name in errors:
                continue
            try:
                taken, peak = _watched(detector, step, setting.device)
                seconds[name].append(taken)
                peaks[name] = max(peak, peaks.get(name, 0))
            except Exception as error:
                errors[name] = last_line(error)
    rows = []
    for name in found:
        row = _blank(mode, name, setting, dtype, errors.get(name, ""))
        if seconds[name]:
            middle = statistics.median(seconds[name])
            row |= {"steps": len(seconds[name]), "images/s": setting.batch / middle, "ms": 1000 * middle}
            row["peak GiB"] = peaks[name] / GIB if setting.device == "cuda" else None
        rows.append(row)
    _compare(rows)
    findings.add("detectors", *rows)


def _compare(rows: list[Row]) -> None:
    base = next((row for row in rows if row["entry"] == BASELINE and row["images/s"]), None)
    for row in rows if base else []:
        if row["images/s"]:
            row["throughput over FPN's"] = row["images/s"] / base["images/s"]
            if row["peak GiB"]:
                row["memory over FPN's"] = row["peak GiB"] / base["peak GiB"]


def _watched(detector: Detector, step: Callable[[Detector], None], device: str) -> tuple[float, int]:
    """Seconds, and the peak of its own memory: what it holds, and what the step adds."""
    start = _allocated(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = measure_time(lambda: step(detector), device).wall_seconds
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return seconds, peak - start + detector.held


def _blank(mode: str, name: str, setting: Setting, dtype: torch.dtype, note: str) -> Row:
    values = dict.fromkeys(("images/s", "throughput over FPN's", "peak GiB", "memory over FPN's", "ms", "steps"))
    return {"mode": mode, "batch": setting.batch, "dtype": _name(dtype), "entry": name, **values, "note": note}


def input_with_bitmaps(setting: Setting) -> dict[str, Any]:
    """As ``random_input``, with masks that no step has to draw from polygons."""
    data = random_input(setting)
    instances = data["instances"]
    masks = torch.zeros(len(instances), setting.height, setting.width, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, instances.gt_boxes.tensor.int().tolist()):
        mask[top : bottom + 1, left : right + 1] = True
    instances.gt_masks = BitMasks(masks)
    return {**data, "instances": instances.to(setting.device)}


def _allocated(device: str) -> int:
    return torch.cuda.memory_allocated() if device == "cuda" else 0


def _free(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
