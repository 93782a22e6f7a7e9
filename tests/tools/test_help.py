"""Every command answers ``--help``, and a mistake in its options, before the seconds that torch takes to import."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = [
    *sorted((ROOT / "tools").glob("*.py")),
    ROOT / "train_net.py",
    ROOT / "demo" / "demo.py",
]
# Runs a command as "python FILE" does, and says which of these it has imported.
WATCHED = """
import runpy, sys
heavy = {"torch", "torchvision", "detectron2", "matplotlib", "cv2", "PIL", "numpy"}
sys.argv = sys.argv[1:]
sys.path[0] = sys.argv[0].rpartition("/")[0]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(*sorted(heavy & sys.modules.keys()), file=sys.stderr)
"""


@pytest.mark.parametrize("command", COMMANDS, ids=lambda path: path.name)
def test_help_comes_before_torch(command: Path) -> None:
    run = [sys.executable, "-c", WATCHED, str(command)]
    for words, status in ((["--help"], 0), (["--no-such-option"], 2)):
        done = subprocess.run([*run, *words], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        assert done.stderr.splitlines()[-1] == "", "imported before the command line was read"
        assert status or done.stdout.startswith("usage: ")
