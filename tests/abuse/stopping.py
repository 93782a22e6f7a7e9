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


def cut_short(place: Place) -> list[object]:
    words = resumed(model_0000005=WHOLE, model_0000003=WHOLE, last_checkpoint="model_0000005.pth")(place)
    path = Path(str(words[-1])) / "model_0000005.pth"
    path.write_bytes(path.read_bytes()[:-40])
    return words


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
    Case("machines without an address", lambda place: ["--num-machines", 2], "--num-machines 2 needs --dist-url"),
)
