"""Folders of trainings that cannot be gone on with, and options of several processes that contradict each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from tests.abuse.cases import Case, Place

Spoil = Callable[[Place], Sequence[object]]
WHOLE = {"model": {"x": torch.zeros(2)}, "trainer": {"iteration": 3}, "iteration": 3}


def resumed(**files: object) -> Spoil:
    """``--resume`` in a folder with these files; what is no text or bytes is written as a checkpoint."""

    def spoil(place: Place) -> list[object]:
        folder = place.root / "trained"
        folder.mkdir()
        for age, (name, content) in enumerate(reversed(files.items())):
            path = folder / (name if name == "last_checkpoint" else f"{name}.pth")
            if isinstance(content, dict):
                torch.save(content, path)
            else:
                path.write_bytes(content if isinstance(content, bytes) else str(content).encode())
            os.utime(path, (10**9 + age, 10**9 + age))
        return ["--resume", "OUTPUT_DIR", folder]

    return spoil


def in_the_way(name: str, *flags: str) -> Spoil:
    """A folder, or for what is to be a folder a file, with a name that a training writes."""

    def spoil(place: Place) -> list[object]:
        path = place.root / "trained" / name
        path.parent.mkdir()
        path.write_text("") if "." not in name and name != "last_checkpoint" else path.mkdir()
        return [*flags, "OUTPUT_DIR", path.parent]

    return spoil


def state(**changed: object) -> Spoil:
    """The last checkpoint's state of a training with these changes."""
    spoilt = {**WHOLE, "trainer": {"iteration": 3, **changed}}
    return resumed(model_0000005=spoilt, model_0000003=WHOLE, last_checkpoint="model_0000005.pth")


def momentum(value: object) -> Spoil:
    steps = {"state": {0: {"momentum_buffer": value}}, "param_groups": [{"params": [0], "lr": 0.1}]}
    return state(_trainer={"optimizer": steps})


def cut_short(place: Place) -> list[object]:
    words = resumed(model_0000005=WHOLE, model_0000003=WHOLE, last_checkpoint="model_0000005.pth")(place)
    path = Path(str(words[-1])) / "model_0000005.pth"
    path.write_bytes(path.read_bytes()[:-40])
    return words


def linked(name: str, target: str) -> Spoil:
    """A link with a name that a training writes."""

    def spoil(place: Place) -> list[object]:
        folder = place.root / "linked"
        folder.mkdir()
        (folder / name).symlink_to(target)
        return ["OUTPUT_DIR", folder]

    return spoil


def pipe(name: str) -> Spoil:
    def spoil(place: Place) -> list[object]:
        folder = place.root / "linked"
        folder.mkdir()
        os.mkfifo(folder / name)
        return ["OUTPUT_DIR", folder]

    return spoil


NAMES = "does not name a checkpoint beside it"
NEWEST = "write model_0000003.pth, the newest that is whole, into"
CASES = (
    Case("checkpoints without last_checkpoint", resumed(model_0000005="torn", model_0000003=WHOLE), NEWEST),
    Case("no whole checkpoint", resumed(model_0000003="torn"), "none in the folder is whole"),
    Case("last_checkpoint empty", resumed(model_0000003=WHOLE, last_checkpoint=""), NAMES),
    Case("last_checkpoint binary", resumed(model_0000003=WHOLE, last_checkpoint=bytes(range(256))), NEWEST),
    Case("last_checkpoint elsewhere", resumed(model_0000003=WHOLE, last_checkpoint="../m.pth"), NAMES),
    Case("last_checkpoint absolute", resumed(model_0000003=WHOLE, last_checkpoint="/tmp/m.pth"), NAMES),
    Case("last_checkpoint of two lines", resumed(model_0000003=WHOLE, last_checkpoint="a.pth\nb.pth"), NAMES),
    Case("last_checkpoint of one that is gone", resumed(model_0000003=WHOLE, last_checkpoint="m.pth"), NEWEST),
    Case("a checkpoint cut short", cut_short, f"{NEWEST} last_checkpoint"),
    Case(
        "a checkpoint without the state of a training",
        resumed(model_0000005={"model": {}}, model_0000003=WHOLE, last_checkpoint="model_0000005.pth"),
        "holds weights but not the state of a training",
    ),
    *(
        Case(
            f"a training's state that is {what}",
            resumed(model_0000005={**WHOLE, **changed}, model_0000003=WHOLE, last_checkpoint="model_0000005.pth"),
            "not the state of a training",
        )
        for what, changed in {
            "no number": {"trainer": {"iteration": "3"}},
            "before the first iteration": {"trainer": {"iteration": -5}},
            "without its optimizer": {"trainer": {"iteration": 3, "_trainer": {"optimizer": {}}}},
            "without a model": {"model": None},
        }.items()
    ),
    Case(
        "a checkpoint that is no dictionary",
        resumed(model_0000005="", last_checkpoint="model_0000005.pth"),
        "no other is whole",
    ),
    Case(
        "a checkpoint of another model",
        resumed(model_0000003=WHOLE, last_checkpoint="model_0000003.pth"),
        "is of another model",
    ),
    *(
        Case(f"a training's state with {what}", spoil, f"{says}; {NEWEST}")
        for what, spoil, says in [
            ("hooks that are a list", state(hooks=[]), "(trainer.hooks: Input should be a valid dictionary)"),
            (
                "a schedule of text",
                state(hooks={"LRScheduler": {"base_lrs": [0.1], "last_epoch": "3"}}),
                "(trainer.hooks.LRScheduler.last_epoch: Input should be a valid integer)",
            ),
            (
                "a history that is none",
                state(hooks={"ExactResumption": {"course": {}, "history": {"loss": 1}}}),
                "(trainer.hooks.ExactResumption.history.loss: Input should be a valid tuple)",
            ),
            (
                "a patience that is none",
                state(hooks={"EarlyStopping": {}}),
                "(trainer.hooks.EarlyStopping.stopped_with_patience: Field required)",
            ),
            (
                "momenta that are not finite",
                momentum(torch.tensor([1, float("nan")])),
                "is not finite (1 tensors, the first momentum_buffer of parameter 0)",
            ),
            ("momenta of text", momentum("x"), "Input should be an instance of Tensor)"),
        ]
    ),
    *(
        Case(f"{name} is a folder", in_the_way(name, *flags), f"{name} is a folder, and a file is to have this name")
        for name, flags in {
            ".lock": [],
            "metrics.json": [],
            "log.txt": ["--resume"],
            "config.yaml": ["--check"],
            "last_checkpoint": ["--resume"],
            "model_best.pth": ["--resume"],
            "model_final.pth": ["--resume"],
            "evaluation.json": ["--eval-only"],
        }.items()
    ),
    *(
        Case(f"{name} is {what}", spoil(name), f"{name} is {what}, and a file is to have this name")
        for name in (".lock", "metrics.json", "config.yaml")
        for what, spoil in {"a pipe": pipe, "a link to nothing": lambda name: linked(name, "gone/x")}.items()
    ),
    Case(".lock is a device", linked(".lock", "/dev/null"), ".lock is a device, and a file is to have this name"),
    Case(".lock is a circle", linked(".lock", ".lock"), ".lock is a link to nothing, and a file is to have this name"),
    Case("inference is a file", in_the_way("inference"), "inference is a file, and a folder is to have this name"),
    *(
        Case(
            f"--dist-url {url}, {' '.join(flags) or 'run'}",
            lambda place, url=url, flags=flags: [*flags, "--num-gpus", 2, "--dist-url", url],
            f"--dist-url is {url!r}; allowed: tcp://HOST:PORT",
        )
        for url in (
            "tcp://host",
            "tcp://host:99999",
            "host:29500",
            "http://host:1",
            "tcp://:29500",
            "file://a/b",
            "env://",
        )
        for flags in ([], ["--check"])
    ),
    Case(
        "a machine beyond the last",
        lambda place: ["--num-machines", 2, "--machine-rank", 2],
        "--machine-rank is 2; allowed: a number from 0 to 1, as there are 2 machines",
    ),
    Case("--check of machines without an address", lambda place: ["--check", "--num-machines", 2], "needs --dist-url"),
    Case("machines without an address", lambda place: ["--num-machines", 2], "--num-machines 2 needs --dist-url"),
)
