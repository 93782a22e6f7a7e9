"""MODEL_ZOO.md has every config, with the parameters that it has and the results that its training gave."""

from __future__ import annotations

import json
import re
from pathlib import Path

import model_zoo_table
import pytest
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
    for file, row in model_zoo_table.read_rows(PAGE).items():
        total = PARAMETERS.get(file, {}).get("total")
        if total is None:  # a lazy config without a twin
            with torch.device("meta"):
                model = instantiate(model_zoo.get_config(file).model)
            total = sum(p.numel() for p in model.parameters())
        assert row["params (M)"] == f"{total / 1e6:.1f}", file


def test_the_tables_are_what_the_tool_makes_of_them() -> None:
    rows = model_zoo_table.read_rows(PAGE)
    assert PAGE == model_zoo_table.write_rows(PAGE, rows), "`python tools/model_zoo_table.py --only` mends it"


def test_a_cheap_row_counted_again() -> None:
    file = "quick_schedules/keypoint_rcnn_R_18_FPT_quickstart.yaml"
    counted = model_zoo_table.count(file)
    assert counted.items() <= model_zoo_table.read_rows(PAGE)[file].items()


def test_a_cheap_step_measured_again() -> None:
    """Of the same size: how fast it is depends on what else the machine does."""
    file = "quick_schedules/retinanet_R_18_FPT_quickstart.yaml"
    step, row = model_zoo_table.measure_step(file), model_zoo_table.read_rows(PAGE)[file]
    assert float(step["memory (GiB)"]) == pytest.approx(float(row["memory (GiB)"]), rel=0.3)
    assert 0 < float(step["step (s)"]) < 30


def test_a_step_that_cannot_run_is_a_dash(capfd: pytest.CaptureFixture[str]) -> None:
    file = "no_such_folder/no_such_config.yaml"
    assert set(model_zoo_table.measure_step(file).values()) == {model_zoo_table.UNKNOWN}
    assert file in capfd.readouterr().err


def test_the_sizes_of_the_images_are_said() -> None:
    for file, *_ in model_zoo_table.config_files():
        height, width = model_zoo_table.image_size(model_zoo.get_config(file))
        assert f"{height} × {width}" in PAGE, file


def test_tables_are_narrow() -> None:
    for table in model_zoo_table.TABLE.finditer(PAGE):
        for line in table[0].splitlines():
            shown = re.sub(r"\]\(.*?\)", "]", line)  # without the addresses
            assert len(shown) <= 170, line


def test_what_a_config_expects_is_what_its_training_gave() -> None:
    for file, row in model_zoo_table.read_rows(PAGE).items():
        if file.endswith(".yaml"):
            for _, metric, value, tolerance in model_zoo.get_config(file).TEST.EXPECTED_RESULTS:
                figures = re.findall(rf"{re.escape(metric)} ([\d.]+)", row["trained here"])
                assert any(abs(float(figure) - value) <= tolerance / 2 for figure in figures), (file, metric)
