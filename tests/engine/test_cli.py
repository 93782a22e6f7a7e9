"""How the command lines end, and what their options take."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.engine import default_argument_parser

from fpt_d2 import cli
from fpt_d2.errors import UserError, WeightsError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (WeightsError("no weights"), 2, "tool.py: no weights\n"),
        (UserError("no file"), 2, "tool.py: no file\n"),
        (KeyboardInterrupt(), 130, "tool.py: go on with it\n"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(error, status, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tools/tool.py"])

    @cli.exit_on_user_errors("go on with it")
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == status and capsys.readouterr().err == message == f"{end.value}\n"


@pytest.mark.parametrize("closed", [("stdout",), ("stderr",), ("stdout", "stderr")])
def test_a_command_whose_streams_are_closed_ends_as_any(closed, monkeypatch, capsys):
    for name in closed:
        monkeypatch.setattr(sys, name, None)
    with pytest.raises(SystemExit) as end, cli.exit_on_user_errors():
        print("progress", file=sys.stderr)
        sys.stdout.write("and results")
        raise UserError("no file")
    assert end.value.code == 2
    assert ("no file" in capsys.readouterr().err) == ("stderr" not in closed)


@pytest.mark.parametrize(
    "error",
    [
        *(kind("a") for kind in (KeyError, TypeError, AttributeError, RuntimeError, ValueError)),
        FileNotFoundError(2, "a"),
    ],
)
def test_a_programmers_error_keeps_its_traceback(error):
    with pytest.raises(type(error)), cli.exit_on_user_errors():
        raise error


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (cli.positive_int, "3", 3),
        (cli.positive_number, "0.5", 0.5),
        (cli.positive_number, "inf", float("inf")),
        (cli.image_size, "800x1333", (800, 1333)),
        (cli.picture_path, "new/a.PNG", Path("new/a.PNG")),
    ],
)
def test_values(read, text, value):
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "texts"),
    [
        (cli.positive_int, ["0", "-1", "1.5", "x", ""]),
        (cli.positive_number, ["0", "-1", "nan", "-inf", "x", ""]),
        (cli.image_size, ["800", "800x", "axb", "1x2x3", "0x0", "-1x5"]),
        (cli.picture_path, ["drawn", "c.xyz", "folder.png", ""]),
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
    cli.add_confidence_threshold(parser)
    for name in ("--confidence-threshold", "--conf-threshold"):
        assert parser.parse_args([name, "1"]).confidence_threshold == 1
        for value in ("50", "nan", "x"):
            with pytest.raises(SystemExit):
                parser.parse_args([name, value])
            assert f"'{value}' is not between 0 and 1" in capsys.readouterr().err


def test_the_options_of_a_training_are_those_of_detectron2():
    def options(parser):
        kept = ("option_strings", "dest", "nargs", "const", "default", "type", "choices", "required", "metavar")
        return {a.dest: [type(a), *(getattr(a, name) for name in kept)] for a in parser._actions}

    ours, theirs = cli.training_parser(), default_argument_parser()
    added = {"check": False, "timeout": cli.DEFAULT_TIMEOUT}
    shared = {name: option for name, option in options(ours).items() if name not in added}
    assert shared == options(theirs) and list(shared) == list(options(theirs))
    words = ["--config-file", "a.yaml", "--eval-only", "A.B", "1", "--resume"]
    for line in ([], words):
        assert vars(ours.parse_args(line)) == {**vars(theirs.parse_args(line)), **added}
    assert "Examples:" in ours.epilog and ours.formatter_class is theirs.formatter_class


# Written into the process's standard error at its end.
HEAVY = "\n".join(
    [
        "import atexit, sys",
        "names = ('torch', 'detectron2', 'cv2', 'matplotlib', 'numpy')",
        "atexit.register(lambda: print([n for n in names if n in sys.modules], file=sys.stderr))",
        "import runpy",
        "sys.path.insert(0, sys.argv[1].rpartition('/')[0])",
        "sys.argv = sys.argv[1:]",
        "runpy.run_path(sys.argv[0], run_name='__main__')",
    ]
)


@pytest.mark.parametrize("script", ["train_net.py", "tools/lazyconfig_train_net.py", "demo/demo.py"])
@pytest.mark.parametrize(("words", "status"), [(["--help"], 0), (["--no-such-option"], 2), (["--num-gpus", "x"], 2)])
def test_help_and_usage_errors_are_answered_before_anything_heavy_is_imported(script, words, status):
    command = [sys.executable, "-c", HEAVY, str(ROOT / script), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == status and "usage:" in done.stdout + done.stderr, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_wrong_path_of_a_config_is_answered_before_anything_heavy_is_imported():
    command = [sys.executable, "-c", HEAVY, str(ROOT / "train_net.py"), "--config-file", "configs/Base-RCNN-FTP.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    sentence, heavy = done.stderr.splitlines()
    assert done.returncode == 2 and "did you mean configs/Base-RCNN-FPT.yaml" in sentence and heavy == "[]"


def test_a_command_starts_without_words_to_other_peoples_code() -> None:
    """What PyTorch says to Detectron2's authors about torch.jit.script, that is."""
    code = "import fpt_d2.cli, fpt_d2.engine.lazy"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "Warning" not in run.stderr


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "²", "1" * 10, "9" * 5000])
def test_numbers_that_no_clock_takes_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="not a whole number above 0, of up to nine digits"):
        cli.positive_int(text)
