"""MODEL_ZOO.md has every config, with the parameters that it has and the results that its training gave."""

from __future__ import annotations

import json
import re
from pathlib import Path

import model_zoo_table
import torch
from detectron2.config import instantiate

from fpt_d2 import model_zoo

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "MODEL_ZOO.md").read_text(encoding="utf-8")
PARAMETERS = json.loads((ROOT / "tests" / "modeling" / "parameters.json").read_text())


def test_every_config_has_a_row_and_nothing_else_has() -> None:
    links = re.findall(r"\]\(configs/(.*?)\)", PAGE)
    assert sorted(links) == sorted(file for files in model_zoo_table.config_files() for file in files)
    assert {link for link in links if link.endswith(".yaml")} == PARAMETERS.keys()


def test_parameters_are_those_of_the_models() -> None:
    for file, (_, millions, *_) in model_zoo_table.read_rows(PAGE).items():
        total = PARAMETERS.get(file, {}).get("total")
        if total is None:  # a lazy config without a twin
            with torch.device("meta"):
                model = instantiate(model_zoo.get_config(file).model)
            total = sum(p.numel() for p in model.parameters())
        assert millions == f"{total / 1e6:.1f}", file


def test_the_tables_are_what_the_tool_makes_of_them() -> None:
    rows = model_zoo_table.read_rows(PAGE)
    assert PAGE == model_zoo_table.write_rows(PAGE, rows), "`python tools/model_zoo_table.py --only` mends it"


def test_a_cheap_row_measured_again() -> None:
    file = "quick_schedules/keypoint_rcnn_R_18_FPT_quickstart.yaml"
    assert model_zoo_table.measure(file) == model_zoo_table.read_rows(PAGE)[file][:3]


def test_what_a_config_expects_is_what_its_training_gave() -> None:
    for file, (*_, gave) in model_zoo_table.read_rows(PAGE).items():
        if file.endswith(".yaml"):
            expected = model_zoo.get_config(file).TEST.EXPECTED_RESULTS
            assert bool(expected) == (gave != "not trained here"), file
            for _, metric, value, tolerance in expected:
                figures = re.findall(rf"{re.escape(metric)} ([\d.]+)", gave)
                assert any(abs(float(figure) - value) <= tolerance / 2 for figure in figures), (file, metric)
