"""The GPU report without a GPU: it runs, says what fails, and keeps what it has; its kernels need torch alone."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_report import main

from tests.loggers import forget_loggers

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from benchmarks import correctness, gpu_pages, gpu_report, kernels, session  # noqa: E402
from benchmarks.findings import Findings, read_findings  # noqa: E402
from benchmarks.measure import Runner  # noqa: E402
from benchmarks.processes import run_isolated  # noqa: E402
from benchmarks.report import markdown_table  # noqa: E402
from benchmarks.workload import FORWARD, Entry, Setting, Workload  # noqa: E402

# Runs a tool where these cannot be imported.
TORCH_ALONE = """
import runpy, sys
blocked = "detectron2 LabGym fvcore iopath pycocotools torchvision cv2 yacs omegaconf matplotlib PIL tabulate tqdm"
for name in blocked.split():
    sys.modules[name] = None  # as Python marks what it must not import
sys.argv = sys.argv[1:]
sys.path[0] = sys.argv[0].rpartition("/")[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(autouse=True)
def fresh_loggers() -> Iterator[None]:
    """Without it a handler would write to the standard output of the test before; the report silences the root."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)
    forget_loggers()


def run_with_torch_alone(tool: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", TORCH_ALONE, str(ROOT / "tools" / tool), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)


def test_a_quick_run_has_every_section(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    assert main(["--quick", "--device", "cpu", "--output", str(tmp_path)]) == 0
    torch.set_num_threads(threads)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"]
    content, page = json.loads((tmp_path / "report.json").read_text()), (tmp_path / "report.md").read_text()
    assert content["about"]["torch"] == torch.__version__ and "--quick --device cpu" in content["about"]["command"]
    tables = {name: rows for section in content["sections"].values() for name, rows in section["tables"].items()}
    assert list(content["sections"]) == list(gpu_report.SHARES) and not any(
        section["left out"] for section in content["sections"].values()
    )
    assert all(row["passes"] for row in tables["errors"]), [row for row in tables["errors"] if not row["passes"]]
    assert {row["path"] for row in tables["errors"]} == {
        *("mixture, auto", "mixture, chunked", "mixture, sdpa", "linear", "local", "pyramid, auto")
    }
    assert {row["dtype"] for row in tables["errors"]} == {"float64", "float32", "bfloat16", "float16"}
    assert {row["entry"] for row in tables["kernels"]} == {"ours", "ours (sdpa)"}
    assert {row["entry"] for row in tables["necks"]} == {"R50 trunk", "FPN", "FPT light"}
    assert [row["entry"] for row in tables["detectors"]] == ["FPN", "FPT light"] * 3
    for row in [*tables["kernels"], *tables["necks"], *tables["detectors"]]:
        assert row["ms"] > 0 and not row["note"], row
    for heading in ("## Goals", "## Correctness", "## Kernels", "## Necks", "## Detectors"):
        assert heading in page
    assert "computes what the textbook does: MET" in page


def test_with_torch_alone(tmp_path: Path) -> None:
    done = run_with_torch_alone("gpu_report.py", "--quick", "--device", "cpu", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    sections = json.loads((tmp_path / "report.json").read_text())["sections"]
    assert all(row["passes"] for row in sections["correctness"]["tables"]["errors"])
    assert all(row["ms"] > 0 for row in sections["kernels"]["tables"]["kernels"])
    for name in ("necks", "detectors"):
        (note,) = sections[name]["notes"]
        assert note.startswith("Left out: ") and "needs Detectron2, and there is no module" in note


def test_the_benchmark_of_kernels_needs_torch_alone(tmp_path: Path) -> None:
    words = ("--quick", "--only", "GT dot / ours", "--mode", "forward", "--output", str(tmp_path))
    done = run_with_torch_alone("benchmark.py", "--suite", "kernels", *words)
    assert done.returncode == 0, done.stderr
    assert "| GT dot" in done.stdout and "No pictures: they need matplotlib" in done.stdout
    done = run_with_torch_alone("benchmark.py", "--suite", "necks", *words)
    assert done.returncode == 2 and "The suite 'necks' needs Detectron2" in done.stderr.splitlines()[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_refused_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        ([], "The report needs an NVIDIA GPU that torch can use, and there is none"),
        (["--device", "cpu"], "--device cpu only tries the command: add --quick"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--output", str(tmp_path)])
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error


def test_a_path_that_is_wrong_or_raises_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(q: torch.Tensor, *others: Any, impl: str, **options: Any) -> torch.Tensor:
        if impl == "sdpa":
            raise RuntimeError("first line\nno such kernel")
        out = right(q, *others, impl=impl, **options)
        return out * 1.1 if impl == "chunked" else out

    right = correctness.core.mixture_attention
    monkeypatch.setattr(correctness.core, "mixture_attention", broken)
    monkeypatch.setattr(correctness, "DTYPES", (torch.float32,))
    findings = Findings(tmp_path / "correctness.json", time.time() + 100)
    correctness.correctness_section(findings, "cpu", True, (2, 100))
    rows = {row["path"]: row for row in correctness.summary(findings.tables["errors"])}
    assert rows["mixture, auto"][""] == "pass"
    assert rows["mixture, sdpa"]["first failure"].endswith("RuntimeError: no such kernel")
    assert rows["mixture, chunked"][""] == "1 FAIL" and 0.09 < rows["mixture, chunked"]["worst result"] < 0.11


def test_shares_have_every_comparison_once() -> None:
    names = [name for name, _ in correctness._comparisons("cpu", False)]
    assert len(set(names)) == len(names) > 30
    shares = [names[i::5] for i in range(5)]
    assert sorted(name for share in shares for name in share) == sorted(names)


def test_relative_error_sees_a_single_wrong_number_and_one_that_is_not_finite() -> None:
    expected = torch.ones(10_000, dtype=torch.float64)
    actual = expected.clone()
    assert correctness.relative_error(actual, expected) == 0
    actual[7] = 1.5
    assert correctness.relative_error(actual, expected) == pytest.approx(0.5)
    assert correctness.relative_error(1.1 * expected, expected) == pytest.approx(0.1)
    actual[7] = torch.nan
    assert correctness.relative_error(actual, expected) == float("inf")


def test_what_there_is_no_time_for_is_said(tmp_path: Path) -> None:
    findings = Findings(tmp_path / "section.json", time.time() - 1)
    findings.add("table", {"a": 1.0})
    assert not findings.has_time("the rest")
    whole = read_findings([tmp_path / "section.json", tmp_path / "never_written.json"])
    assert whole.tables == {"table": [{"a": 1.0}]} and whole.left_out == ["the rest"]


def test_a_process_that_dies_or_hangs_does_not_end_the_others(tmp_path: Path) -> None:
    written = tmp_path / "written"
    jobs = [partial(os._exit, 3), partial(time.sleep, 100), written.touch]
    assert run_isolated(jobs, 8) == ["ended with status 3", "was stopped after 8 s", ""]
    assert written.exists()


KILLED_PARENT = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from benchmarks.processes import run_isolated

def job():
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(300)

if __name__ == "__main__":
    run_isolated([job], 300)
"""


def test_a_section_does_not_outlive_its_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(KILLED_PARENT)
    command = [sys.executable, str(script), str(ROOT / "tools")]
    # The section's process has inherited the pipe: its end is awaited.
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=100)
    assert done.returncode == -signal.SIGKILL


def test_an_entry_that_fails_leaves_the_others(tmp_path: Path) -> None:
    def make(name: str, setting: Setting) -> Workload:
        def step(training: bool) -> list[torch.Tensor]:
            if name == "bad":
                raise ValueError("no such kernel")
            return [torch.ones(2)]

        return Workload(step, [])

    names = ("bad", "good")
    limits = {"repeats": 1, "threads": 1, "memory_limit": 1e12, "max_seconds": 10.0, "progress": str}

    def start(entry: Entry, setting: Setting, threads: int) -> Runner:
        return Runner(entry, setting)

    tolerant = session.Session(1e12, (FORWARD,), **limits, start=start, tolerant=True)
    entries = [Entry("case", name, partial(make, name)) for name in names]
    results = {r.entry: r for r in tolerant.measure_case("kernels", entries, Setting(8, 8))}
    assert results["bad"].note == "failed: ValueError: no such kernel" and results["bad"].seconds is None
    assert results["good"].seconds is not None and not results["good"].note


def test_verdicts() -> None:
    detectors = [
        {
            "mode": "training",
            "batch": 16,
            "entry": gpu_pages.MODEL,
            "throughput over FPN's": 0.75,
            "memory over FPN's": 1.6,
        }
    ]
    of_kernel = {"entry": "ours (triton)", "case": f"ST N=4{kernels.BOUNDED}", "dtype": "bfloat16"}
    rows = [{**of_kernel, "times as fast as sdpa": ratio} for ratio in (1.4, 2.0)]
    found = Findings(Path(), 0.0, {"detectors": detectors, "kernels": rows, "errors": [{"passes": False}]})
    correct, reads, kernel, *trains = gpu_pages.verdicts({"all": found})
    assert correct.endswith("NOT MET, 1 of 1 comparisons fail") and reads.endswith("not measured")
    assert kernel.endswith("NOT MET, in 1 of 2 cases; 1.4 to 2 times")
    assert trains[0].endswith("FPN's throughput: MET (0.75)") and trains[1].endswith("FPN's memory: NOT MET (1.6)")
    assert len(trains) == 2


def test_the_goals_are_about_the_models_of_the_coco_configs() -> None:
    from benchmarks import detectors

    from fpt_d2 import model_zoo

    judged = detectors.detector_config(gpu_pages.MODEL, "cpu").MODEL.FPT
    assert judged == model_zoo.get_config(detectors.CONFIG).MODEL.FPT


def test_a_table_has_the_columns_of_all_rows() -> None:
    table = markdown_table([{"a": 1234.5, "b": "x|y"}, {"a": None, "c": 2}])
    assert table.splitlines() == [
        "| a     | b   | c   |",
        "| ----- | --- | --- |",
        "| 1,230 | x/y |     |",
        "|       |     | 2   |",
    ]
