"""The benchmark runs and says what it should, and what it compares ours with computes the same."""

import csv
import json
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

from benchmarks import cost, kernels, measure, necks, peers, segmentation, session  # noqa: E402
from benchmarks.report import Result, compared  # noqa: E402
from benchmarks.session import Session  # noqa: E402
from benchmarks.workload import FORWARD, MODES, TRAIN, Setting, Workload  # noqa: E402

SETTING = Setting(48, 72, batch=2, dtype=torch.float64)
MIB = 2**20


@pytest.fixture(scope="module")
def benchmark():
    import benchmark

    return benchmark


def _outputs_and_gradients(entry, setting):
    torch.manual_seed(0)
    workload = entry.make(setting)
    outputs = workload.run(True)
    workload.step(TRAIN)
    return [*outputs, *(leaf.grad for leaf in workload.leaves)]


@pytest.mark.parametrize("case", dict.fromkeys(entry.case for entry in kernels.entries("cpu")))
def test_every_form_of_a_kernel_computes_the_same(case):
    entries = {e.name: e for e in kernels.entries("cpu") if e.case == case}
    expected = _outputs_and_gradients(entries.pop("textbook"), SETTING)
    for entry in entries.values():
        for ours, theirs in zip(_outputs_and_gradients(entry, SETTING), expected):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("similarity", ["euclidean", "embedded", "dot"])
def test_the_textbook_neck_computes_the_same(similarity):
    torch.manual_seed(0)
    keys = (*necks.EXACT, "MODEL.FPT.GT_SIMILARITY", similarity, "MODEL.FPT.ZERO_INIT_FUSE", False)
    neck = necks.build_neck(keys).double()
    features = {
        n: torch.randn(2, channels, *SETTING.level(stride), dtype=torch.float64)
        for n, (channels, stride) in necks.FEATURES.items()
    }
    ours = necks.run_neck(neck, features)
    for a, b in zip(ours, necks.run_neck(neck, features, as_textbook=True), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_the_textbook_of_segmentation_computes_the_same():
    torch.manual_seed(0)
    backbone = segmentation.build_backbone("UFP + FPT").double().eval()
    image = torch.randn(1, 3, SETTING.height, SETTING.width, dtype=torch.float64)
    with torch.no_grad():
        ours = backbone(image)
        source = {n: conv(ours[backbone.in_feature]) for n, conv in backbone.global_conv.items()}
        theirs = necks.run_textbook(source, None, transform=backbone.fpt, fusions=backbone.ufp_output)
    for n in backbone.levels:
        torch.testing.assert_close(ours[n], theirs[n], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("names", [necks.NARROW_NECKS, necks.PEERS])
def test_necks_that_are_not_of_the_paper_run(names):
    """Their maps are of the width that FPN has, and every parameter learns."""
    setting = replace(SETTING, dtype=torch.float32)
    width = kernels.NARROW_CHANNELS if names is necks.NARROW_NECKS else peers.CHANNELS
    for entry in (e for e in necks.entries("cpu") if e.name in names):
        workload = entry.make(setting)
        outputs = workload.run(True)
        assert len(outputs) == 4 + ("BiFPN" in entry.name) and {out.shape[:2] for out in outputs} == {(2, width)}
        workload.step(TRAIN)
        unused = [leaf for leaf in workload.leaves if leaf.grad is None]
        assert len(unused) == (entry.name == necks.ENCODER)  # res2
        assert entry.baseline and entry.work_baseline in ("FPN", "FPN narrow")


def test_pafpn_is_fpn_and_a_path_from_fine_to_coarse():
    torch.manual_seed(0)
    neck = necks.PEERS["PAFPN"]()
    features = {n: torch.randn(1, c, *SETTING.level(stride)) for n, (c, stride) in necks.FEATURES.items()}
    fpn, out = neck.fpn(features), neck(features)
    torch.testing.assert_close(out["p2"], fpn["p2"])
    down = neck.down["p3"](out["p2"]).relu()
    torch.testing.assert_close(out["p3"], neck.conv["p3"](fpn["p3"] + down).relu())


def test_deformable_attention_samples_where_it_is_told():
    """Without an offset and with the weight of one level alone, a position of that level gets its own value."""
    torch.manual_seed(0)
    layer, sizes = peers.DeformableLayer(), [torch.Size((n, n + 1)) for n in (8, 4, 2, 1)]
    x = torch.randn(2, sum(size.numel() for size in sizes), peers.CHANNELS)
    for linear in (layer.offset, layer.weight):
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    layer.weight.bias.data.view(peers.HEADS, len(sizes), peers.POINTS)[:, 1] = 100
    own = slice(8 * 9, 8 * 9 + 4 * 5)
    expected = layer.output(layer.value(x))
    torch.testing.assert_close(layer.attend(x, x, sizes)[:, own], expected[:, own], rtol=1e-4, atol=1e-4)
    # One position to the right.
    layer.offset.bias.data.view(-1, 2)[:, 0] = 1
    moved = layer.attend(x, x, sizes)[:, own].unflatten(1, (4, 5))
    expected = expected[:, own].unflatten(1, (4, 5))
    torch.testing.assert_close(moved[:, :, :-1], expected[:, :, 1:], rtol=1e-4, atol=1e-4)


def test_multiply_adds_of_the_peers_at_the_size_of_the_tables():
    """Those that are published or can be added up by hand, in GMAC at 800 x 1344."""
    setting = Setting(800, 1344)
    entries = {e.name: e for e in necks.entries("cpu")}
    for name, known in {"FPN": 60.9, "BFP": 73.9, "PAFPN": 86.9, "BiFPN": 31.0, necks.ENCODER: 106.1}.items():
        counted = cost.compute_cost(entries[name].make, setting, FORWARD).flops / 2e9
        assert counted == pytest.approx(known, rel=5e-3), name
    positions = 100 * 168 + 50 * 84 + 25 * 42 + 13 * 21
    samples = 6 * positions * 4 * 4 * 256 * 5
    encoder = entries[f"{necks.ENCODER}, samples counted"].formula(setting)
    assert encoder - samples == cost.compute_cost(entries[necks.ENCODER].make, setting, FORWARD).flops / 2
    # A plain convolution for each of the three, and what offsets and samples cost on top.
    plain = 6 * 9 * 256**2 * (100 * 168 + 3 * (positions + 7 * 11 - 100 * 168))
    assert 1.05 * plain < entries["DyHead, 6 blocks over FPN"].formula(setting) < 1.1 * plain
    assert peers.dyhead_macs(replace(setting, batch=2)) == 2 * peers.dyhead_macs(setting)


def test_what_has_a_formula_alone_is_not_run():
    formulas = [e for e in necks.entries("cpu") if e.formula]
    fpn = next(e for e in necks.entries("cpu") if e.name == "FPN")
    options = dict(start=lambda entry, setting, threads: measure.Runner(entry, setting))
    results = list(_session(**options).measure_case("necks", [fpn, *formulas], Setting(64, 64)))
    for result in results:
        assert result.work_ratio > 0 and (result.seconds is None) == (result.entry != "FPN")
        assert result.note == ("" if result.entry == "FPN" else "by formula only")
    forward, training = (next(r for r in results if r.entry.startswith("DyHead") and r.mode == m) for m in MODES)
    assert training.gflops == pytest.approx(3 * forward.gflops)
    assert training.work_ratio == pytest.approx(forward.work_ratio)


PAGE_FAULTS = """
import resource, sys, torch
sys.path.insert(0, sys.argv[1])
from benchmarks import measure

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(64 * 2**18).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

counts = [faults(), faults()]
with measure.keep_memory(64 * 2**20):
    counts += [faults(), faults()]
print(*counts, faults())
"""


@pytest.mark.skipif(measure.glibc() is None, reason="only glibc can be told to keep memory")
def test_kept_memory_is_not_faulted_in_again():
    """In a process of its own: the heap of this one may have room already."""
    command = [sys.executable, "-c", PAGE_FAULTS, str(TOOLS)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=200, check=True)
    _, returned, *kept, after = map(int, done.stdout.split())
    assert max(kept) < returned / 10 and after > returned / 2


def test_a_step_with_memory_kept_beside_each_that_returns_it(monkeypatch):
    steps = []

    class Runner:
        def step(self, mode, **how):
            steps.append(how)
            return measure.Step(2.0 - how.get("kept", False), 1.0, 1.0, 2.0)

        def close(self):
            pass

    entry = next(e for e in kernels.entries("cpu") if e.name == "textbook")
    options = dict(modes=(FORWARD,), repeats=2, start=lambda *_: Runner())
    (result,) = _session(**options, keep_memory=True).measure_case("kernels", [entry], Setting(64, 64))
    assert (result.seconds, result.kept_seconds) == (2.0, 1.0)
    assert steps == [{"watched": True}, *2 * [{}, {"kept": True}]]
    (result,) = _session(**options).measure_case("kernels", [entry], Setting(64, 64))
    assert result.kept_seconds is None


def test_the_narrow_kernels_have_64_channels_and_256_keys():
    narrow = {e.case: e for e in kernels.entries("cpu") if e.name == "ours" and e.case.endswith(kernels.NARROW)}
    assert set(narrow) == {f"{case}{kernels.NARROW}" for case, parts, _ in kernels.MIXTURES if parts > 1}
    for entry in narrow.values():
        q, k, v, gate = entry.make(Setting(256, 256)).leaves
        assert q.shape == (1, 4096, 64) and k.shape == v.shape == (1, 256, 64) and gate.shape[1] in (2, 4)


@pytest.mark.parametrize("name", ["R50 trunk", "FPT light"])
def test_a_neck_is_measured_channels_last(name):
    entry = next(e for e in necks.entries("cpu") if e.name == name)
    workload = entry.make(Setting(64, 64, channels_last=True))
    maps = [x for x in (*workload.leaves, *workload.run(True)) if x.dim() == 4 and min(x.shape[1:]) > 1]
    assert maps and all(x.is_contiguous(memory_format=torch.channels_last) for x in maps)


def test_semantic_fpn_is_measured_as_it_is_trained(benchmark):
    args = benchmark.get_parser().parse_args(["--suite", "segmentation", "--only", "semantic"])
    ((_, entries, setting),) = session._plan(args, Setting(0, 0))
    assert (setting.height, setting.width, setting.batch) == (256, 320, 8)
    assert [e.name for e in entries] == list(segmentation.SEMANTIC) and {e.baseline for e in entries} == {("FPN",)}
    cfg = segmentation.semantic_config("FPT, 256 keys", "cpu")
    fpt = cfg.MODEL.FPT
    assert (cfg.MODEL.FPN.OUT_CHANNELS, fpt.BRANCH_CHANNELS, fpt.MAX_KV_TOKENS, fpt.GT_NUM_PARTS) == (64, 64, 256, 4)
    for entry in entries:
        (loss,) = entry.make(Setting(64, 64)).run(True)
        assert torch.isfinite(loss) and loss.requires_grad


def test_semantic_fpn_without_timm(monkeypatch):
    monkeypatch.setattr(segmentation, "SMALL_TRUNK", "R18")
    entry = segmentation.entries("cpu")[-1]
    assert torch.isfinite(entry.make(Setting(64, 64)).run(True)[0])


def _product(repeats, setting):
    """``repeats`` products of two square matrices, one after the other, and their sum."""
    side = setting.height
    a = torch.ones(side, side, requires_grad=True)

    def run(training):
        total = 0
        for _ in range(repeats):
            total = total + a @ a
        return [total]

    return Workload(run, [a])


ONE = Setting(1024, 1024)  # 4 MiB a matrix


def test_computed_cost_of_matrix_products():
    computed = cost.compute_cost(partial(_product, 3), ONE, FORWARD)
    assert computed.flops == 3 * 2 * 1024**3
    assert computed.peak_bytes == 3 * 4 * MIB  # the last sum, the product, the new sum
    assert cost.compute_cost(partial(_product, 1), ONE, TRAIN).flops == 3 * 2 * 1024**3


def test_high_water_mark_of_a_process_is_that_of_the_tensors():
    setting = Setting(256, 256)
    entry = next(e for e in kernels.entries("cpu") if (e.case, e.name) == ("GT dot", "textbook"))
    runner = measure.start_runner(entry, setting, 1)
    try:
        for mode in (FORWARD, TRAIN, FORWARD):  # what one step freed is not hidden from the next watch
            computed = cost.compute_cost(entry.make, setting, mode)
            first = runner.step(mode, watched=True)
            assert first.flops == computed.flops
            assert 0.99 * computed.peak_bytes <= first.peak_bytes <= 1.1 * computed.peak_bytes + 2 * MIB
        assert runner.step(TRAIN).seconds > 0
    finally:
        runner.close()


def test_operators_that_torch_does_not_count():
    q = torch.randn(1, 1, 8, 4, requires_grad=True)
    with measure.flop_counter() as counter:
        torch.nn.functional.scaled_dot_product_attention(q, q, q).sum().backward()
    # two products forward, five backward
    assert counter.get_total_flops() == 7 * 2 * 8 * 8 * 4
    x, conv = torch.randn(1, 4, 6, 6, requires_grad=True), torch.nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False)
    with measure.flop_counter() as counter:
        conv(x).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 6 * 6 * 8 * 9
    with measure.flop_counter() as counter:
        torch.zeros(2, 3).addmm_(torch.ones(2, 5), torch.ones(5, 3))
    assert counter.get_total_flops() == 2 * 2 * 5 * 3


def _session(**changes):
    values = dict(modes=MODES, repeats=1, threads=1, memory_limit=1e12, max_seconds=1e6, progress=str)
    return Session(**{"matrix_rate": 1e12, **values, **changes})


def test_what_does_not_fit_or_takes_too_long_is_skipped_with_its_need():
    quadratic = next(e for e in kernels.entries("cpu") if e.name == "textbook")
    setting = Setting(2048, 2048)
    for result in _session(memory_limit=2**30).measure_case("kernels", [quadratic], setting):
        # at least the scores and the softmax of each of the four parts
        assert result.computed_mib >= 8 * 512 * 512 * 256 * 256 * 4 / MIB
        assert result.note.startswith("skipped: needs ") and result.seconds is None
    for result in _session(max_seconds=1).measure_case("kernels", [quadratic], setting):
        assert result.note.startswith("skipped: takes about ")


def test_quick_run_of_the_command(benchmark, tmp_path, capsys, monkeypatch):
    cases = [e for e in kernels.entries("cpu") if e.case in ("GT dot", kernels.LOCAL)]
    monkeypatch.setattr(kernels, "entries", lambda device: cases)
    assert benchmark.main(["--quick", "--suite", "kernels", "--output", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "benchmark.json").read_text())
    assert content["about"]["matrix rate, GFLOP/s"] > 0 and content["about"]["threads"] == 1
    assert len(content["results"]) == len(cases) * len(MODES)
    for result in content["results"]:
        assert result["seconds"] == pytest.approx(result["user_seconds"] + result["system_seconds"])
        assert (result["time_ratio"] is None) == (result["memory_ratio"] is None) == (result["entry"] == "textbook")
        for quantity in ("seconds", "wall_seconds", "images_per_second", "peak_mib", "gflops", "rate_share"):
            assert result[quantity] > 0, (result, quantity)
        assert (result["kept_seconds"] is None) == (measure.glibc() is None)
        assert (result["computed_mib"] is not None) == (result["entry"] == "textbook")
    with open(tmp_path / "benchmark.csv") as file:
        assert [row["entry"] for row in csv.DictReader(file)] == [r["entry"] for r in content["results"]]
    for picture in ("kernels_time.png", "kernels_memory.png"):
        assert 0 < (tmp_path / picture).stat().st_size < 300 * 1024
    out = capsys.readouterr().out
    assert "| GT dot" in out and "time ratio" in out


def test_only_what_is_named_is_measured(benchmark, tmp_path):
    words = ["--mode", "forward", "--allocator", "returned", "--output", str(tmp_path)]
    assert benchmark.main(["--quick", "--only", "gt dot", "LGT", *words]) == 0
    results = json.loads((tmp_path / "benchmark.json").read_text())["results"]
    assert {(r["case"], r["mode"]) for r in results} == {("GT dot", FORWARD), ("LGT 5x5", FORWARD)}
    assert all(r["kept_seconds"] is None for r in results)
    with pytest.raises(SystemExit, match="--only nothing fits no case or entry of --suite necks"):
        benchmark.main(["--suite", "necks", "--only", "nothing", "--output", str(tmp_path)])


def test_ratios_are_to_the_baseline_and_need_all_of_it():
    blank = Result("necks", "neck", "FPT", 512, 512, 1, TRAIN, seconds=6.0, peak_mib=10.0)
    single, several = replace(blank, baseline="FPN"), replace(blank, baseline="trunk + FPN")
    peers = {"FPN": replace(blank, seconds=1.0, peak_mib=4.0), "trunk": replace(blank, seconds=2.0)}
    assert compared(single, peers) == replace(single, time_ratio=6.0, memory_ratio=2.5)
    kept = {"FPN": replace(peers["FPN"], kept_seconds=0.5)}
    assert compared(replace(single, kept_seconds=4.0), kept).kept_time_ratio == 8.0
    formula = replace(blank, seconds=None, gflops=6.0, work_baseline="FPN")
    assert compared(formula, {"FPN": replace(blank, gflops=4.0)}) == replace(formula, work_ratio=1.5)
    assert compared(several, peers) == replace(several, time_ratio=2.0)
    for incomplete in ({}, {"FPN": peers["FPN"]}, {**peers, "trunk": replace(blank, seconds=None)}):
        assert compared(several, incomplete) == several
    assert compared(blank, peers) == blank


KILLED_PARENT = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from benchmarks import measure, workload

def sleeper(setting):
    return workload.Workload(lambda training: time.sleep(300), [])

if __name__ == "__main__":
    runner = measure.start_runner(workload.Entry("case", "name", sleeper), workload.Setting(32, 32), 1)
    runner._connection.send((workload.FORWARD, {}))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_does_not_outlive_its_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(KILLED_PARENT)
    command = [sys.executable, str(script), str(TOOLS)]
    # The worker has inherited the pipe: its end is awaited.
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=200)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("text", ["800", "0x0"])
def test_a_bad_size_is_named(benchmark, capsys, text):
    with pytest.raises(SystemExit):
        benchmark.main(["--sizes", text])
    assert text in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_measured(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
    with pytest.raises(SystemExit, match=f"{tmp_path} cannot be written to: choose another folder"):
        benchmark.main(["--quick", "--output", str(tmp_path)])


def test_textbook_stores_what_it_says():
    """3 n + 1 maps of Q x K are alive at the peak of a training step of n parts."""
    entry = next(e for e in kernels.entries("cpu") if (e.case, e.name) == ("ST N=4", "textbook"))
    setting = Setting(512, 512)
    maps = cost.compute_cost(entry.make, setting, TRAIN).peak_bytes / (16384 * 4096 * 4)
    assert 13 <= maps < 13.5
