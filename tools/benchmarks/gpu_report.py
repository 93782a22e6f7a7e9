"""One run of the GPU report: its sections in processes of their own, and the report after each of them."""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import logging
import os
import platform
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fpt_d2.errors import UserError

from .findings import Findings, last_line, read_findings, say
from .gpu_pages import report_page, verdicts
from .processes import run_isolated

# Section -> its share of the time limit. What is under way then may go on for the grace, as a share of the same.
SHARES = {"correctness": 0.16, "kernels": 0.22, "necks": 0.13, "detectors": 0.33}
GRACE = 0.06
# Processes that share a section: Triton compiles on one core, and the textbook computes on the CPU.
MAX_WORKERS = 12


@dataclass(frozen=True)
class Job:
    """A section, or one of the equal shares of one, as a process runs it.

    Attributes:
        share: (i, n), the i-th one of n.
        deadline: by ``time.time()``; see :class:`.findings.Findings`.
    """

    section: str
    path: Path
    device: str
    quick: bool
    batch: int
    share: tuple[int, int]
    deadline: float

    def __call__(self) -> None:
        """Run it; whatever goes wrong is a note of its findings."""
        logging.getLogger().setLevel(logging.ERROR)  # Detectron2 says what each model is initialised from
        findings = Findings(self.path, self.deadline)
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // self.share[1]) if self.device == "cuda" else 1)
        try:
            self._run(findings)
        except ModuleNotFoundError as error:
            findings.note(f"Left out: it needs Detectron2, and there is no module {error.name}")
        except UserError as error:
            findings.note(f"Left out: {error}")
        except Exception as error:
            traceback.print_exc()
            findings.note(f"Ended early: {last_line(error)}")

    def _run(self, findings: Findings) -> None:
        """Modules are imported here: only two of the sections need Detectron2."""
        where = {"correctness": "correctness", "kernels": "speed", "necks": "speed", "detectors": "training"}
        module = importlib.import_module(f".{where[self.section]}", __package__)
        if self.section == "correctness":
            module.correctness_section(findings, self.device, self.quick, self.share)
        elif self.section == "detectors":
            module.detector_section(findings, self.device, self.quick, self.batch)
        else:
            sections = {"kernels": "kernel_section", "necks": "neck_section"}
            getattr(module, sections[self.section])(findings, self.device, self.quick)


def run(args: argparse.Namespace, command: str) -> None:
    """Run the sections that the command line asks for; the report is written after each.

    Raises:
        UserError: the device is a GPU, and there is none.
    """
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "The report needs an NVIDIA GPU that torch can use, and there is none: "
            "--quick --device cpu tries the command without one"
        )
    if args.device == "cpu" and not args.quick:
        raise UserError("--device cpu only tries the command: add --quick")
    start = time.time()
    about = {"command": command, **describe_machine(args.device)}
    sections: dict[str, Findings] = {}
    for name in (name for name in SHARES if name in args.sections):
        say(f"Section {name}")
        sections[name] = _run_section(name, args)
        about["seconds"] = round(time.time() - start)
        _write(args.output, about, sections)
    goals = "\n".join(f"- {line}" for line in verdicts(sections))
    print(f"\n{goals}\n\nSaved report.md and report.json in {args.output}", flush=True)


def _run_section(name: str, args: argparse.Namespace) -> Findings:
    seconds = 60 * args.time_limit * SHARES[name]
    is_shared = name == "correctness" and args.device == "cuda"
    workers = max(1, min(MAX_WORKERS, (os.cpu_count() or 1) * 3 // 4)) if is_shared else 1
    paths = [args.output / f"{name}.json" if workers == 1 else args.output / f"{name}_{i}.json" for i in range(workers)]
    deadline = time.time() + seconds
    jobs = []
    for i, path in enumerate(paths):
        path.unlink(missing_ok=True)
        jobs.append(Job(name, path, args.device, args.quick, args.batch, (i, workers), deadline))
    if args.device == "cpu":
        jobs[0]()
        endings = [""]
    else:
        endings = run_isolated(jobs, seconds + 60 * args.time_limit * GRACE)
    findings = read_findings(paths)
    findings.notes += [f"A process of this section {ending}" for ending in endings if ending]
    for path in paths:
        path.unlink(missing_ok=True)  # all of it is in report.json
    return findings


def describe_machine(device: str) -> dict[str, Any]:
    """The device and the versions, by what they are called."""
    about: dict[str, Any] = {"date": datetime.datetime.now().isoformat(sep=" ", timespec="minutes")}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        about["GPU"] = properties.name
        about["memory, GiB"] = round(properties.total_memory / 2**30, 1)
        about["compute capability"] = f"{properties.major}.{properties.minor}"
        about["driver"] = _driver()
    else:
        about["GPU"] = "none: on the CPU"
    about |= {
        "cores": os.cpu_count(),
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "CUDA": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),
    }
    return about | {name: _version(name) for name in ("triton", "torchvision", "detectron2")}


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def _version(name: str) -> str:
    try:
        return str(getattr(importlib.import_module(name), "__version__", "unknown"))
    except Exception as error:  # one that is there and cannot start is not a reason to stop
        return "not installed" if isinstance(error, ModuleNotFoundError) and error.name == name else last_line(error)


def _write(folder: Path, about: dict[str, Any], sections: dict[str, Findings]) -> None:
    content = {
        name: {"tables": found.tables, "notes": found.notes, "left out": found.left_out}
        for name, found in sections.items()
    }
    (folder / "report.json").write_text(json.dumps({"about": about, "sections": content}, indent=1) + "\n")
    try:
        (folder / "report.md").write_text(report_page(about, sections))
    except Exception as error:  # the numbers are in report.json
        print(f"report.md was not written: {last_line(error)}", file=sys.stderr)
