"""MODEL_ZOO.md has every config, with the parameters that it has and the results that its training gave."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from detectron2.config import instantiate

from fpt_d2 import model_zoo

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "MODEL_ZOO.md").read_text(encoding="utf-8")
PARAMETERS = json.loads((ROOT / "tests" / "modeling" / "parameters.json").read_text())


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        spec = importlib.util.spec_from_file_location("model_zoo_table", ROOT / "tools" / "model_zoo_table.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def test_every_config_has_a_row_and_nothing_else_has(tool: ModuleType) -> None:
    links = re.findall(r"\]\(configs/(.*?)\)", PAGE)
    assert sorted(links) == sorted(file for files in tool.config_files() for file in files)
    assert {link for link in links if link.endswith(".yaml")} == PARAMETERS.keys()


def test_parameters_are_those_of_the_models(tool: ModuleType) -> None:
    for file, (_, millions, _) in tool.read_rows(PAGE).items():
        total = PARAMETERS.get(file, {}).get("total")
        if total is None:  # a lazy config without a twin
            with torch.device("meta"):
                model = instantiate(model_zoo.get_config(file).model)
            total = sum(p.numel() for p in model.parameters())
        assert millions == f"{total / 1e6:.1f}", file


def test_the_tables_are_what_the_tool_makes_of_its_measurements(tool: ModuleType) -> None:
    measured = tool.read_rows(PAGE)
    rows = [tool.Row(files, measured[files[0]]) for files in tool.config_files()]
    text = PAGE.partition(tool.BEGIN)[2].partition(tool.END)[0].strip()
    assert text == tool.to_markdown(rows), "`python tools/model_zoo_table.py --only` mends it"


def test_a_cheap_row_measured_again(tool: ModuleType) -> None:
    file = "quick_schedules/keypoint_rcnn_R_18_FPT_quickstart.yaml"
    assert tool.measure_row([file]).measured == tool.read_rows(PAGE)[file]


def test_what_a_config_expects_is_what_its_training_gave(tool: ModuleType) -> None:
    for file, *_ in tool.config_files():
        expected = model_zoo.get_config(file).TEST.EXPECTED_RESULTS if file.endswith(".yaml") else []
        assert bool(expected) == (file in tool.HERE) or file.endswith(".py"), file
        for _, metric, value, tolerance in expected:
            figures = re.findall(rf"{re.escape(metric)} ([\d.]+)", tool.HERE[file])
            assert any(abs(float(figure) - value) <= tolerance / 2 for figure in figures), (file, metric)
    assert tool.HERE.keys() <= {file for files in tool.config_files() for file in files}
