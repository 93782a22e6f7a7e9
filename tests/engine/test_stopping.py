"""What ends a training early: signals, losses that are not finite, a full disk, a second training in its folder."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from fpt_d2.checkpoint import FPTCheckpointer
from fpt_d2.cli import exit_on_user_errors
from fpt_d2.engine import ConfigError, setup
from fpt_d2.engine.checkpoint import SafeCheckpointer
from fpt_d2.engine.failures import in_sentences
from fpt_d2.engine.lock import lock, unlock
from fpt_d2.engine.resumption import last_checkpoint
from fpt_d2.engine.writers import start_logging
from fpt_d2.errors import Terminated, TrainingError, WeightsError
from tests.engine.test_signals import handlers as handlers
from tests.engine.test_signals import send_together
from tests.engine.test_training import load, train

SHORT = ["SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2, "DATASETS.TEST", "()"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_of_a_scheduler_is_saved_like_ctrl_c(signum: int, parse, out: Path, capsys) -> None:
    with pytest.raises(Terminated) as end:
        train(setup(parse(*SHORT)), at_0=lambda: os.kill(os.getpid(), signum))
    assert (out / "last_checkpoint").read_text() == "model_0000000.pth"
    assert signal.getsignal(signum) is not None
    with pytest.raises(SystemExit) as status, exit_on_user_errors():
        raise end.value
    assert status.value.code == 128 + signum
    sentence = "Interrupted: the same command with --resume goes on from model_0000000.pth"
    assert capsys.readouterr().err.splitlines()[-1].endswith(sentence)


def test_signals_that_come_together_are_one(parse, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a group and from whoever passes them on: the step is finished, and the saving too."""
    reports: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", reports.append)
    save = SafeCheckpointer.save

    def save_slowly(*args: Any, **kwargs: Any) -> None:
        send_together(signal.SIGTERM, signal.SIGINT)
        save(*args, **kwargs)

    monkeypatch.setattr(SafeCheckpointer, "save", save_slowly)
    with pytest.raises(Terminated):
        train(setup(parse(*SHORT)), at_0=lambda: send_together(signal.SIGTERM, signal.SIGINT, signal.SIGUSR1))
    assert (out / "last_checkpoint").read_text() == "model_0000000.pth" and not reports


def test_what_is_not_finite_is_never_the_last_checkpoint(parse, out: Path, caplog) -> None:
    cfg = setup(parse(*SHORT))
    trainers: list[Any] = []

    def spoil(trainer: Any = None) -> None:
        next(trainers[0].model.parameters()).data.fill_(float("nan"))

    class Kept(train.__kwdefaults__["cls"]):
        def build_hooks(self) -> list[Any]:
            trainers.append(self)
            return super().build_hooks()

    with pytest.raises(TrainingError) as caught:
        train(cfg, cls=Kept, at_2=spoil)
    sentence = str(caught.value)
    assert "of iteration 2 are not finite" in sentence and "SOLVER.BASE_LR" in sentence
    assert str(out / "model_0000001.pth") in sentence and len(sentence.splitlines()) == 1
    assert (out / "last_checkpoint").read_text() == "model_0000001.pth"
    assert "Exception during training" not in caplog.text


def test_a_checkpoint_that_is_not_finite_is_neither_written_nor_read(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    SafeCheckpointer(model, str(tmp_path)).save("model_0000000")
    model.weight.data[0, 0] = float("inf")
    with pytest.raises(TrainingError, match="1 tensors are not finite, the first weight, and nothing of it is saved"):
        SafeCheckpointer(model, str(tmp_path)).save("model_0000001")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_0000000.pth"]
    torch.save({"model": model.state_dict()}, tmp_path / "wrong.pth")
    with pytest.raises(WeightsError, match="holds weights that are not finite"):
        FPTCheckpointer(nn.Linear(2, 2)).load(str(tmp_path / "wrong.pth"))


def test_a_frozen_normalization_is_finite_too(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), FrozenBatchNorm2d(2))
    model[1].bias[0] = float("nan")
    torch.save({"model": model.state_dict()}, tmp_path / "wrong.pth")
    with pytest.raises(WeightsError, match=r"not finite \(1 tensors, the first 1.bias\)"):
        FPTCheckpointer(model).load(str(tmp_path / "wrong.pth"))


def test_the_state_of_an_optimizer_is_finite_too(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    trainer = nn.Module()
    trainer.optimizer, trainer.iter = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), 7
    model(torch.full((1, 2), float("inf"))).sum().backward()
    trainer.optimizer.step()
    model.weight.data.zero_()
    with pytest.raises(TrainingError, match="tensors of iteration 7 are not finite, the first momentum_buffer"):
        SafeCheckpointer(model, str(tmp_path), trainer=trainer).save("model_0000007")
    assert not list(tmp_path.iterdir())


def test_a_longer_training_goes_on_by_the_poly_schedule(parse, out: Path) -> None:
    words = ["SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "SOLVER.POLY_LR_POWER", 1.0, "DATASETS.TEST", "()"]
    train(setup(parse(*words, "SOLVER.MAX_ITER", 2)))
    resumed = train(setup(parse(*words, "SOLVER.MAX_ITER", 4, "--resume")), resume=True)
    assert resumed.scheduler.max_iters == 4 and resumed.iter == 4
    assert resumed.storage.history("lr").latest() == pytest.approx(0.002 / 4)


HOLDER = (
    "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); f.write('me'); f.flush(); "
)
HOLDER += "print('held', flush=True); time.sleep(60)"


def test_a_folder_holds_one_training(command_line, train_net, out: Path, capsys) -> None:
    out.mkdir()
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(out / ".lock")], stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        for flags in ([], ["--resume"]):
            assert train_net(command_line(*flags)) == 2
            error = capsys.readouterr().err
            assert f"OUTPUT_DIR {out} is in use by another training, me: wait for it" in error
            assert len(error.strip().splitlines()) == 1
        holder.kill()
    lock(str(out), key="OUTPUT_DIR")  # a lock does not outlive its process
    lock(str(out), key="OUTPUT_DIR")
    trial = HOLDER.replace("LOCK_EX", "LOCK_EX | fcntl.LOCK_NB").replace("60", "0")
    command = [sys.executable, "-c", trial, str(out / ".lock")]
    assert subprocess.run(command, capture_output=True).returncode != 0
    unlock(str(out))
    assert subprocess.run(command, capture_output=True).returncode == 0


def test_a_first_checkpoint_without_its_tag_is_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tag is complete before the checkpoint has its name."""
    replace = os.replace

    def die_at_tag(old: str, new: str) -> None:
        if new.endswith("last_checkpoint"):
            raise KeyboardInterrupt
        replace(old, new)

    monkeypatch.setattr(os, "replace", die_at_tag)
    monkeypatch.setattr(os, "remove", lambda path: None)  # a kill does not tidy up
    with pytest.raises(KeyboardInterrupt):
        SafeCheckpointer(nn.Linear(1, 1), str(tmp_path)).save("model_0000004")
    assert last_checkpoint(str(tmp_path)) == str(tmp_path / "model_0000004.pth")
    (tmp_path / "model_0000004.pth").rename(tmp_path / "model_0000005.pth")
    with pytest.raises(WeightsError, match="there is no last_checkpoint in it"):
        last_checkpoint(str(tmp_path))


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for name in ("fsync", "replace"):
        function = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, function=function: (done.append(name), function(*args)))
    SafeCheckpointer(nn.Linear(1, 1), str(tmp_path)).save("model_0000001")
    assert done == ["fsync", "fsync", "replace", "fsync", "replace", "fsync"]


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files of this process end at 1 MB, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_sentence(command_line, train_net, out: Path, capsys, small_files: None) -> None:
    assert train_net(command_line("SOLVER.MAX_ITER", 3, "SOLVER.CHECKPOINT_PERIOD", 2, "DATASETS.TEST", "()")) == 2
    error = capsys.readouterr().err
    path = out / "model_0000001.pth"
    assert error.splitlines()[-1].startswith(f"train_net.py: {path} cannot be written: File too large; there is no")
    assert "Traceback" not in error
    assert not list(out.glob("*unfinished*")) and not list(out.glob("*.pth"))
    assert json.loads((out / "metrics.json").read_text().splitlines()[-1])["iteration"] == 1


def test_too_little_room_is_said_before(command_line, train_net, monkeypatch, capsys) -> None:
    class Full:
        f_bavail, f_frsize = 100, 4096

    monkeypatch.setattr(os, "statvfs", lambda path: Full)
    assert train_net(command_line()) == 2
    assert "has room for 0.4 MiB, and one checkpoint of this model takes about" in capsys.readouterr().err


def test_a_log_that_cannot_be_written_says_so_once(parse, out: Path, capsys) -> None:
    out.mkdir()
    (out / "log.txt").symlink_to("/dev/full")
    setup(parse())
    for number in range(100):
        logging.getLogger("fpt_d2").info("line %d", number)
    error = capsys.readouterr().err
    assert error.count("The log ") == 1 and "ends here" in error and "Traceback" not in error


def test_another_model_than_that_of_the_checkpoint(parse, out: Path) -> None:
    train(setup(parse("SOLVER.MAX_ITER", 1, "DATASETS.TEST", "()")))
    for words, sentence in [
        (["MODEL.MASK_ON", False], "parameter groups of .*as they were: MODEL.MASK_ON True"),
        (["MODEL.FPN.OUT_CHANNELS", 16], r"is of another model .*backbone.fpn_.*MODEL.FPN.OUT_CHANNELS 32"),
        (["MODEL.FPT.BRANCHES", "['st']"], r"MODEL.FPT.BRANCHES \['st', 'gt', 'rt'\]"),
        (["MODEL.BACKBONE.FREEZE_AT", 2], "parameter groups of .*MODEL.BACKBONE.FREEZE_AT 0"),
        (["SOLVER.OPTIMIZER", "AdamW"], "The checkpoint was trained by SGD"),
    ]:
        with pytest.raises(ConfigError, match=sentence):
            setup(parse("--resume", "DATASETS.TEST", "()", *words))
    assert load(out / "model_final.pth")["iteration"] == 0


def test_a_line_that_cannot_be_formatted_leaves_the_log_open(out: Path, capsys) -> None:
    start_logging(str(out))
    log = logging.getLogger("fpt_d2")
    log.info("%d", "not a number")
    log.info("the line after")
    assert "the line after" in (out / "log.txt").read_text()
    assert "ends here" not in capsys.readouterr().err


def test_a_file_that_a_mistake_of_ours_misses_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), in_sentences(str(tmp_path)):
        (tmp_path / "never_written").read_text()
    (tmp_path / "events").mkdir()
    with pytest.raises(TrainingError, match="events cannot be written"), in_sentences(str(tmp_path)):
        (tmp_path / "events").write_text("")


def test_a_mistake_while_the_disk_is_full_keeps_its_traceback(tmp_path: Path, caplog) -> None:
    loop = logging.getLogger("detectron2.engine.train_loop")
    with pytest.raises(KeyError), in_sentences(str(tmp_path)):
        try:
            raise OSError(errno.ENOSPC, "full")
        except OSError:
            try:
                raise KeyError("ours")
            except KeyError:
                loop.exception("Exception during training:")
                raise
    assert "KeyError" in caplog.text and not loop.filters
    caplog.clear()
    with pytest.raises(TrainingError, match="full"), in_sentences(str(tmp_path)):
        try:
            raise OSError(errno.ENOSPC, "full")
        except OSError:
            loop.exception("Exception during training:")
            raise RuntimeError("PytorchStreamWriter failed writing file data/0")  # noqa: B904  # as torch does
    assert not caplog.text


def test_what_the_end_of_a_training_makes_of_a_full_disk(tmp_path: Path) -> None:
    """Detectron2 prints once more, and may divide by the iterations since the last time."""

    def after_train() -> None:
        raise ZeroDivisionError

    with pytest.raises(TrainingError, match="full"), in_sentences(str(tmp_path)):
        try:
            raise OSError(errno.ENOSPC, "full")
        finally:
            after_train()


def test_a_gpu_that_has_failed_does_not_hide_the_mistake() -> None:
    class Broken(nn.Module):
        def named_parameters(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("device-side assert triggered")

    trainer = SimpleNamespace(model=Broken(), iter=1)
    with pytest.raises(IndexError), in_sentences("", trainer=trainer):
        raise IndexError("ours")


def test_what_an_interruption_leaves(tmp_path: Path) -> None:
    trainer = SimpleNamespace(_hooks=[])
    for sentence in ("no checkpoint was saved yet", "--resume goes on from model_0000004.pth"):
        with pytest.raises(Terminated) as end, in_sentences(str(tmp_path), trainer=trainer):
            raise KeyboardInterrupt
        assert sentence in end.value.note and end.value.signum == signal.SIGINT
        SafeCheckpointer(nn.Linear(1, 1), str(tmp_path)).save("model_0000004")


def test_a_resumed_training_says_what_has_changed_and_that_it_is_over(parse, out: Path, capsys) -> None:
    words = ["SOLVER.MAX_ITER", 1, "DATASETS.TEST", "()"]
    train(setup(parse(*words)))
    cfg = setup(parse("--resume", *words, "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR", 0.5))
    trainer = train(cfg, resume=True)
    assert trainer.optimizer.param_groups[0]["initial_lr"] == 0.002
    said = capsys.readouterr().out
    assert "optimizer stays as it was, and these have no effect: SOLVER.BASE_LR 0.5 (was 0.002)" in said
    assert "another schedule: SOLVER.LR_SCHEDULER_NAME WarmupCosineLR (was WarmupMultiStepLR)" in said
    assert "Nothing is left to do: the last checkpoint is of iteration 0, and the training ends after 1 itera" in said
