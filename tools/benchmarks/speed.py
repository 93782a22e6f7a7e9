"""Sections "kernels" and "necks" of the GPU report: entries of the benchmark, in the sizes and dtypes that matter."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from fpt_d2 import core

from . import kernels
from .cost import compute_cost, measure_matrix_rate
from .findings import Findings, Row, last_line
from .measure import Runner
from .report import Result
from .session import MEMORY_SHARE, Session, free_memory, suite_entries
from .workload import FORWARD, MODES, Entry, Setting

# The path that "auto" took on a GPU before there were kernels of our own.
TODAY = "ours (sdpa)"
# For the repeats of one entry; the first two steps come on top.
MAX_SECONDS = 1.0


def kernel_section(findings: Findings, device: str, quick: bool) -> None:
    """Attention by every path; keys within the default budget first, which is what the main configs compute."""
    setting = _setting(device, quick)
    _attempt(findings, "reads of the device", partial(_count_reads, findings, device))
    _attempt(findings, "kernel launches", partial(_count_launches, findings, setting))
    dtypes = (torch.bfloat16, torch.float32)
    sessions = {dtype: _session(findings, replace(setting, dtype=dtype), quick) for dtype in dtypes}
    entries = [e for e in suite_entries("kernels", device) if e.name not in kernels.TEXTBOOK]
    if quick:
        entries = [e for e in entries if e.case in (f"ST N=4{kernels.BOUNDED}", kernels.DOT)]
    cases = list(dict.fromkeys(e.case for e in entries))
    # What the configs compute, then all keys, which float32 takes longest for.
    dear = [case for case in cases if case in [name for name, *_ in kernels.MIXTURES]]
    plan = [(case, dtype) for case in cases if case not in dear for dtype in dtypes]
    plan += [(case, dtype) for dtype in dtypes for case in dear]
    for case, dtype in plan:
        sized = replace(setting, dtype=dtype)
        if findings.has_time(f"{case}, {_name(dtype)}"):
            same = [e for e in entries if e.case == case]
            results = list(sessions[dtype].measure_case("kernels", same, sized))
            findings.add("kernels", *_kernel_rows(results, same, sized, sessions[dtype].matrix_rate))


def neck_section(findings: Findings, device: str, quick: bool) -> None:
    """The benchmark's necks, all at once, in float32 and under autocast."""
    setting = replace(_setting(device, quick), batch=1 if quick else 2)
    entries = [e for e in suite_entries("necks", device) if e.make and e.name not in ("FPT exact", "FPT textbook")]
    if quick:
        entries = [e for e in entries if e.name in ("R50 trunk", "FPN", "FPT light")]
    for dtype in (torch.bfloat16, torch.float32):
        sized = replace(setting, dtype=dtype)
        if findings.has_time(f"necks, {_name(dtype)}"):
            session = _session(findings, sized, quick)
            for result in session.measure_case("necks", entries, sized):
                findings.add("necks", _row(result, dtype) | {"time ratio": result.time_ratio, "to": result.baseline})


def _setting(device: str, quick: bool) -> Setting:
    return Setting(*((64, 64) if quick else (800, 1333)), device=device)


def _session(findings: Findings, setting: Setting, quick: bool) -> Session:
    rate = 1e12 if quick else measure_matrix_rate(setting)
    if not quick:
        findings.note(f"A large matrix product in {_name(setting.dtype)} reaches {rate / 1e12:.0f} TFLOP/s")
    return Session(
        rate,
        modes=MODES,
        repeats=1 if quick else 5,
        threads=1,
        memory_limit=MEMORY_SHARE * free_memory(setting.device),
        max_seconds=MAX_SECONDS,
        progress=lambda what: None,
        start=lambda entry, setting, threads: Runner(entry, setting),
        tolerant=True,
    )


def _kernel_rows(results: Sequence[Result], entries: Sequence[Entry], setting: Setting, rate: float) -> list[Row]:
    """With times over those of the path of today, and FLOP of the textbook for each path: the same work."""
    rows = []
    for result in results:
        today = next((r for r in results if (r.entry, r.mode) == (TODAY, result.mode)), None)
        row = _row(result, setting.dtype)
        if result.seconds is not None:
            if today is not None and today.seconds is not None:
                row["times as fast as sdpa"] = today.seconds / result.seconds
            outline = entries[0].outline or entries[0].make
            try:
                row["of matrix rate"] = compute_cost(outline, setting, result.mode).flops / result.seconds / rate
            except Exception as error:  # then the time stands without its share
                row["note"] = f"share of the rate: {last_line(error)}"
        rows.append(row)
    return rows


def _row(result: Result, dtype: torch.dtype) -> Row:
    known = asdict(result)
    return {
        "case": result.case,
        "entry": result.entry,
        "dtype": _name(dtype),
        "batch": result.batch,
        "mode": result.mode,
        "ms": None if result.seconds is None else 1000 * result.seconds,
        "peak MiB": known["peak_mib"],
        "note": result.note,
    }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _attempt(findings: Findings, case: str, function: Callable[[], None]) -> None:
    """What fails is said, and nothing else is lost."""
    if findings.has_time(case):
        try:
            function()
        except Exception as error:
            findings.note(f"The count of {case} failed: {last_line(error)}")


def _count_launches(findings: Findings, setting: Setting) -> None:
    """CUDA kernels of one forward pass."""
    wanted = (kernels.LOCAL, kernels.DOT, f"ST N=4{kernels.BOUNDED}", f"GT Euclidean N=4{kernels.BOUNDED}")
    for entry in suite_entries("kernels", setting.device):
        if entry.case not in wanted or entry.name in kernels.TEXTBOOK or setting.device == "cpu":
            continue
        row: Row = {"case": entry.case, "entry": entry.name}
        try:
            workload = entry.make(replace(setting, dtype=torch.bfloat16))
            workload.step(FORWARD)
            row["kernels of a forward pass"] = _launches(partial(workload.step, FORWARD))
        except Exception as error:
            row["note"] = last_line(error)
        findings.add("launches", row)
    if setting.device == "cpu":
        findings.note("CUDA kernels and reads of the device are counted on a GPU only")


def _launches(step: Callable[[], None]) -> int | None:
    """None where the profiler sees no kernels, which needs permissions that some containers lack."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        step()
        torch.cuda.synchronize()
    events = [e for e in profiler.events() or [] if e.device_type == torch.autograd.DeviceType.CUDA]
    return sum(not e.name.startswith(("Mem", "[memory]")) for e in events) or None


def _count_reads(findings: Findings, device: str) -> None:
    """How often the host waits for the device in a padded forward of a neck, the read of the sizes included."""
    if device != "cuda":
        return
    for budget in (0, 100):
        for impl in ("auto", *(["triton"] if "triton" in kernels.other_paths(device) else [])):
            row: Row = {"neck": "all levels' ST, GT and RT", "keys": budget or "all", "impl": impl}
            try:
                row |= {"reads of the device": _reads(*_padded_neck(budget, impl))}
            except Exception as error:
                row["note"] = last_line(error)
            findings.add("reads", row)


def _padded_neck(budget: int, impl: str) -> tuple[core.PyramidNeck, dict[str, Tensor], Tensor]:
    """A neck, its maps, and the two images that they stand for, one smaller than the other."""
    strides = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}
    gt, st = (partial(b, max_kv_tokens=budget, impl=impl) for b in (core.GroundingTransformer, core.SelfTransformer))
    neck = core.PyramidNeck(core.PyramidTransform(strides, 64, channels=64, gt=gt, st=st), 64, 64).cuda()
    features = {n: torch.randn(2, 64, 256 // s, 320 // s, device="cuda") for n, s in strides.items()}
    images = torch.rand(2, 3, 256, 320, device="cuda") + 0.1
    images[1, :, 200:] = 0
    images[1, :, :, 250:] = 0
    return neck, features, images


def _reads(neck: core.PyramidNeck, features: dict[str, Tensor], images: Tensor) -> int:
    with torch.no_grad():
        neck(features, core.ValidSizes.read(images))
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                neck(features, core.ValidSizes.read(images))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message).lower() for warning in caught)


def side_by_side(rows: Sequence[Row], value: str, by: Sequence[str]) -> list[Row]:
    """One row for each value of ``by``, with a column of ``value`` for each entry."""
    table: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = tuple(row[name] for name in by)
        table.setdefault(key, dict(zip(by, key)))[row["entry"]] = (
            row.get(value) or row.get("note", "").partition(":")[0]
        )
    return list(table.values())
