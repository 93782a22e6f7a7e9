"""Every input of the catalogue ends in one clear sentence or works: none in a traceback, a signal or silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.abuse import annotations, configs, images, security, stopping, values
from tests.abuse.cases import Case, Place
from tests.engine.conftest import CONFIG

CASES = [case for module in (annotations, values, configs, security, images, stopping) for case in module.CASES]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_the_answer_is_right(
    case: Case,
    tmp_path: Path,
    shapes: Path,
    train_net: Callable[[list[str]], int],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = Place(tmp_path, shapes, CONFIG)
    words = [str(word) for word in case.spoil(place) or ()]
    status = train_net(["--config-file", str(place.config), *words])
    error = capsys.readouterr().err
    assert (status, case.says in (error if case.status == 2 else error + caplog.text)) == (case.status, True), error
    if case.status == 2:
        # One sentence, or that of a data set with a line for each kind of problem.
        assert all(line.startswith("  ") for line in error.strip().splitlines()[1:])
        assert "Traceback" not in error
        assert not list(place.out.rglob("*"))


def test_names_are_told_apart() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
