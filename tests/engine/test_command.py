"""How the command lines end, and what their options take."""

import argparse
import sys
from pathlib import Path

import pytest

from fpt_d2.checkpoint import WeightsError
from fpt_d2.engine import command


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (WeightsError("no weights"), 2, "tool.py: no weights\n"),
        (FileNotFoundError(2, "No such file", "a.json"), 2, "tool.py: [Errno 2] No such file: 'a.json'\n"),
        (KeyboardInterrupt(), 130, "tool.py: go on with it\n"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(error, status, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tools/tool.py"])

    @command.exit_on_user_errors("go on with it")
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == status and capsys.readouterr().err == message == f"{end.value}\n"


@pytest.mark.parametrize("error", [KeyError("a"), TypeError("a"), AttributeError("a"), RuntimeError("a")])
def test_a_programmers_error_keeps_its_traceback(error):
    with pytest.raises(type(error)), command.exit_on_user_errors():
        raise error


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (command.positive_int, "3", 3),
        (command.image_size, "800x1333", (800, 1333)),
        (command.picture_path, "new/a.PNG", Path("new/a.PNG")),
    ],
)
def test_values(read, text, value):
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "texts"),
    [
        (command.positive_int, ["0", "-1", "1.5", "x", ""]),
        (command.image_size, ["800", "800x", "axb", "1x2x3", "0x0", "-1x5"]),
        (command.picture_path, ["drawn", "c.xyz", "folder.png", ""]),
    ],
)
def test_values_that_are_refused(read, texts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder.png").mkdir()
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError, match=f"{text!r} is no"):
            read(text)


def test_the_threshold_has_both_names_of_detectron2_and_is_a_score(capsys):
    parser = argparse.ArgumentParser()
    command.add_confidence_threshold(parser)
    for name in ("--confidence-threshold", "--conf-threshold"):
        assert parser.parse_args([name, "1"]).confidence_threshold == 1
        for value in ("50", "nan", "x"):
            with pytest.raises(SystemExit):
                parser.parse_args([name, value])
            assert f"'{value}' is not between 0 and 1" in capsys.readouterr().err
