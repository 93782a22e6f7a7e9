"""demo/run_onnx.py says what it cannot do in one sentence, and never writes over the photo."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "demo" / "run_onnx.py"


class Session:
    """Stands in for onnxruntime's: one object."""

    def __init__(self, model: str, providers: list[str]) -> None:
        self.names = ["sem_seg"] if "semantic" in model else ["boxes", "scores", "classes"]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in self.names]

    def get_modelmeta(self) -> Any:
        return SimpleNamespace(custom_metadata_map={"classes": json.dumps(["cell"]), "pixel_order": "RGB"})

    def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        return np.array([[1.0, 2.0, 30.0, 20.0]]), np.array([0.9]), np.array([0])


@pytest.mark.parametrize(
    ("model", "output", "sentence"),
    [
        ("semantic.onnx", "new.png", "semantic.onnx is not a whole detector"),
        ("model.onnx", "photo.png", "--output photo.png is the photo, which would be replaced"),
        ("model.onnx", "nowhere/new.png", "nowhere/new.png cannot be written"),
        ("model.onnx", "new.nothing", "new.nothing cannot be written: unknown file extension"),
        ("model.onnx", "new.png", ""),
    ],
)
def test_sentences(
    model: str,
    output: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=Session))
    monkeypatch.setattr(sys, "argv", ["run_onnx.py", model, "photo.png", "--output", output])
    Image.new("RGB", (40, 30)).save("photo.png")
    before = Path("photo.png").read_bytes()
    spec = importlib.util.spec_from_file_location("run_onnx", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if sentence:
        with pytest.raises(SystemExit) as error:
            module.main()
        assert error.value.code == 2 and sentence in capsys.readouterr().err
    else:
        module.main()
        assert Path(output).is_file()
    assert Path("photo.png").read_bytes() == before
