"""How the package reads: the depth of a forward pass, the size of functions, and which room imports which.

``python -m tests.packaging.test_structure`` prints the figures.
"""

from __future__ import annotations

import ast
import statistics
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

PACKAGE = Path(__file__).parents[2] / "fpt_d2"
# Room -> the rooms that it may import.
ARROWS = {
    "core": set(),
    "modeling": {"core"},
    "data": set(),
    "evaluation": {"data", "visualization"},
    "checkpoint": {"core"},
    "visualization": {"core", "data"},
    "engine": {"core", "modeling", "data", "evaluation", "checkpoint", "visualization"},
    # A trained model as a file: it takes a model and a predictor, and leaves building and loading to others.
    "export": set(),
    # The command lines, which nothing imports but the scripts outside the package.
    "commands": {"core", "modeling", "data", "evaluation", "checkpoint", "visualization", "engine", "export"},
}
# Files beside the rooms, which any may import.
ENTRANCE = {"config", "config_file", "config_path", "config_types", "config_values", "config_yaml", "errors", "paths"}
ENTRANCE |= {"model_zoo", "cli", "quiet", "signals", "", "__version__"}


def walk_forward(*opts: object) -> tuple[int, int]:
    """Depth of the package's own frames in one forward pass of FPT, and how often a call changes the file."""
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import build_backbone

    from fpt_d2 import add_fpt_config

    cfg = get_cfg()
    add_fpt_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpt_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.merge_from_list(list(opts))
    backbone, image = build_backbone(cfg, ShapeSpec(channels=3)).eval(), torch.randn(1, 3, 64, 96)
    stack: list[str] = []
    depth, visited = 0, []

    def note(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal depth
        file = frame.f_code.co_filename
        # A product of matrices is read like torch's own.
        if event not in ("call", "return") or not file.startswith(str(PACKAGE)) or file.endswith("products.py"):
            return
        if event == "return":
            stack.pop()
            return
        stack.append(file)
        visited.append(file)
        depth = max(depth, len(stack))

    with torch.no_grad():
        sys.setprofile(note)
        try:
            backbone(image)
        finally:
            sys.setprofile(None)
    return depth, sum(a != b for a, b in zip(visited, visited[1:]))


def function_sizes() -> dict[str, int]:
    """Lines of code of every function, without its docstring, blank lines and comments."""
    sizes = {}
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                first = node.body[0]
                has_docstring = ast.get_docstring(node) is not None
                docstring = range(first.lineno, first.end_lineno + 1) if has_docstring else range(0)
                own = [lines[i - 1].strip() for i in range(node.lineno, node.end_lineno + 1) if i not in docstring]
                sizes[f"{path.name}:{node.name}"] = sum(bool(line) and not line.startswith("#") for line in own)
    return sizes


def imported_rooms(path: Path) -> set[str]:
    """The rooms and entrance files that a module imports relatively, functions' own imports included."""
    inside = path.relative_to(PACKAGE).parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == len(inside):
            found |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
    return found


# Where Winograd's algorithm is allowed, most of the 32 convolutions are one step to its file and back.
@pytest.mark.parametrize(("winograd", "most_changes"), [(False, 45), (True, 70)])
def test_a_forward_pass_can_be_followed(winograd: bool, most_changes: int) -> None:
    depth, changes = walk_forward("MODEL.FPT.WINOGRAD", winograd)
    assert depth <= 9
    assert changes <= most_changes


def test_functions_are_small() -> None:
    sizes = sorted(function_sizes().values())
    assert statistics.median(sizes) <= 7
    assert sizes[int(0.9 * len(sizes))] <= 20
    assert sizes[-1] <= 45


@pytest.mark.parametrize("room", ARROWS)
def test_arrows_run_one_way(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        assert imported_rooms(path) <= ARROWS[room] | ENTRANCE, path


def test_a_training_starts_without_matplotlib() -> None:
    """What draws is imported where something is drawn."""
    for path in PACKAGE.rglob("*.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        imports = "\n".join(ast.unparse(node) for node in body if isinstance(node, (ast.Import, ast.ImportFrom)))
        is_drawing = path.parent.name in ("visualization", "drawing", "web")
        assert is_drawing or not any(name in imports for name in ("matplotlib", "visualiz")), path


if __name__ == "__main__":
    depth, changes = walk_forward()
    print(f"forward of FPT: depth {depth}, changes of file {changes}")
    sizes = sorted(function_sizes().values())
    print(f"functions: median {statistics.median(sizes)}, p90 {sizes[int(0.9 * len(sizes))]}, longest {sizes[-1]}")
    print("lines:", sum(len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")))
