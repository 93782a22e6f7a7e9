"""Models as folders of the Hugging Face Hub: written, read again, and refused, without a network."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from fpt_d2 import Predictor
from fpt_d2.config_file import read_config
from fpt_d2.errors import UserError
from tests.demo.conftest import config_file
from tests.engine.test_predictor import NAMES, same

huggingface_hub = pytest.importorskip("huggingface_hub", reason="models of the Hub need huggingface_hub")
pytest.importorskip("safetensors", reason="models of the Hub need safetensors")

__all__ = ["config_file"]

IMAGE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def predictor(config_file: str) -> Predictor:
    return Predictor(config_file, threshold=0.0, class_names=NAMES)


@pytest.fixture(scope="module")
def saved(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return predictor.save_pretrained(tmp_path_factory.mktemp("hub") / "my-model", license="mit")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def test_what_was_saved_predicts_the_same(predictor, saved) -> None:
    loaded = Predictor.from_pretrained(saved, threshold=0.0)
    ours, theirs = predictor(IMAGE), loaded(IMAGE)
    assert len(ours) and same(ours, theirs) and ours.class_names == theirs.class_names
    assert loaded.class_names == NAMES
    assert Predictor.from_pretrained(str(saved)).cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0.5
    few = Predictor.from_pretrained(saved, threshold=0.0, device="cpu", opts=["TEST.DETECTIONS_PER_IMAGE", 1])
    assert len(few(IMAGE)) == 1


def test_a_folder_says_nothing_of_the_machine(saved, config_file) -> None:
    assert {path.name for path in saved.iterdir()} == {"README.md", "config.json", "config.yaml", "model.safetensors"}
    text = "".join((saved / name).read_text() for name in ("README.md", "config.json", "config.yaml"))
    assert str(Path(config_file).parent) not in text
    cfg = read_config(str(saved / "config.yaml"))
    assert cfg.MODEL.WEIGHTS == "model.safetensors" and not cfg.DATASETS.TEST
    assert cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0.05, "the threshold of a call is not the model's"


def test_the_card(saved) -> None:
    card = huggingface_hub.ModelCard.load(saved / "README.md")
    assert card.data.library_name == "fpt_d2" and card.data.license == "mit"
    assert card.data.pipeline_tag == "image-segmentation" and "detectron2" in card.data.tags
    assert 'Predictor.from_pretrained("my-model")' in card.text and ", ".join(NAMES) in card.text


def test_semantic_segmentation_in_windows(tmp_path) -> None:
    opts = """MODEL.DEVICE cpu
    TEST.SLIDING_WINDOW.ENABLED True TEST.SLIDING_WINDOW.SIZE (64,64) TEST.SLIDING_WINDOW.STRIDE (48,48)
    INPUT.MIN_SIZE_TEST 96""".split()
    config = "quick_schedules/ufp_fpt_R_50_quickstart.yaml"
    torch.manual_seed(0)
    model = build_model(read_config(config, opts))
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    predictor = Predictor(config, tmp_path / "model.pth", opts=opts)
    scores = predictor(IMAGE)
    classes = predictor.cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    assert scores.shape == (classes, 48, 64) and len(predictor.class_names) == classes
    loaded = Predictor.from_pretrained(predictor.save_pretrained(tmp_path / "saved"))
    assert torch.equal(loaded(IMAGE), scores) and loaded.class_names == predictor.class_names


def test_a_model_that_was_fetched_before_needs_no_network(saved, tmp_path, predictor) -> None:
    repo = tmp_path / "models--me--cells"
    shutil.copytree(saved, repo / "snapshots" / "0123")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0123")
    loaded = Predictor.from_pretrained("me/cells", threshold=0.0, cache_dir=tmp_path)
    assert same(loaded(IMAGE), predictor(IMAGE))


def test_an_upload(predictor, monkeypatch) -> None:
    calls: dict[str, Any] = {}

    def upload(self: Any, *, repo_id: str, folder_path: str, commit_message: str) -> SimpleNamespace:
        calls.update(repo=repo_id, files={path.name for path in Path(folder_path).iterdir()}, said=commit_message)
        calls["card"] = (Path(folder_path) / "README.md").read_text()
        return SimpleNamespace(commit_url="https://hub/me/cells/commit/1")

    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, repo, **options: calls.update(options))
    assert predictor.push_to_hub("me/cells", private=True, license="mit").endswith("commit/1")
    assert calls["repo"] == "me/cells" and calls["private"] and calls["exist_ok"]
    assert {"README.md", "model.safetensors"} <= calls["files"]
    assert 'from_pretrained("me/cells")' in calls["card"] and "\n# cells\n" in calls["card"]


def test_an_upload_without_a_network_is_one_sentence(predictor) -> None:
    for name in ("me/cells", "not a name"):
        with pytest.raises(UserError, match=f"{name} cannot be uploaded: ") as error:
            predictor.push_to_hub(name)
        assert "\n" not in str(error.value)


def write(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)


CASES = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors: it is not a model that"),
    "no config": (lambda f: (f / "config.yaml").unlink(), "has no config.yaml"),
    "no names": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "a pickle": (
        lambda f: (f / "model.safetensors").write_bytes(pickle.dumps({"model": {}})),
        "model.safetensors .* is cut short or damaged",
    ),
    "torch's zip": (lambda f: torch.save({"model": {}}, f / "model.safetensors"), "begins as a .pth does"),
    "a tag": (lambda f: write(f, "config.yaml", "A: !!python/object/apply:os.getcwd []"), "and tags can run code"),
    "a base": (lambda f: write(f, "config.yaml", "_BASE_: /etc/passwd"), "is based on another file by _BASE_"),
    "a base spelled otherwise": (
        lambda f: write(f, "config.yaml", '"\\x5fBASE_": /etc/passwd'),
        "is based on another file by _BASE_",
    ),
    "a base of a merged key": (
        lambda f: write(f, "config.yaml", "<<: {? _BASE_ : /etc/passwd}"),
        "is based on another file by _BASE_",
    ),
    "a wrong value": (lambda f: write(f, "config.yaml", "MODEL: {FPT: {NUM_PARTS: -1}}"), "NUM_PARTS"),
    "bytes": (lambda f: (f / "config.yaml").write_bytes(b"\xff\xfe"), "config.yaml is not text in UTF-8"),
    "broken JSON": (lambda f: write(f, "config.json", "{"), "config.json cannot be read"),
    "names of another type": (lambda f: write(f, "config.json", '{"class_names": {"thing": [1]}}'), "lacks the names"),
    "a list": (lambda f: write(f, "config.json", "[]"), "config.json lacks the names of classes"),
    "too few names": (
        lambda f: write(f, "config.json", json.dumps({"class_names": {"thing": ["a"]}})),
        "There are 1 names of classes, and the model has 6",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_broken_folder_is_one_sentence(case: str, folder: Path) -> None:
    spoil, sentence = CASES[case]
    spoil(folder)
    with pytest.raises(UserError, match=sentence) as error:
        Predictor.from_pretrained(folder)
    assert "\n" not in str(error.value)


def test_a_config_that_names_other_weights_or_data_is_read_without_them(folder) -> None:
    text = (folder / "config.yaml").read_text().replace("model.safetensors", "/none.pkl")
    write(folder, "config.yaml", text.replace("  TEST: []", "  TEST: [none]"))
    predictor = Predictor.from_pretrained(folder)
    assert predictor.cfg.MODEL.WEIGHTS == str(folder / "model.safetensors") and not predictor.cfg.DATASETS.TEST
    assert not predictor.cfg.MODEL.WEIGHTS_ALLOW_PICKLE


def test_names_do_not_steer_a_terminal(folder) -> None:
    write(folder, "config.json", json.dumps({"class_names": {"thing": ["\x1b[2J", *NAMES[1:]]}}))
    assert Predictor.from_pretrained(folder).class_names == ["\\x1b[2J", *NAMES[1:]]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nowhere", "There is no folder nowhere, and a model on the Hub is called user/name"),
        ("/no/where", "There is no folder /no/where"),
        ("me/nothing", "me/nothing is not a folder here, and cannot be fetched from the Hub: "),
    ],
)
def test_a_name_of_nothing_is_one_sentence(name: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        Predictor.from_pretrained(name, cache_dir=tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("package", ["huggingface_hub", "safetensors"])
def test_a_missing_package_is_one_sentence(package, predictor, monkeypatch, tmp_path) -> None:
    for name in (package, "safetensors.torch") if package == "safetensors" else (package,):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"need {package}: pip install huggingface_hub safetensors"):
        predictor.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_and_a_wrong_card_are_one_sentence(predictor, tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file cannot be written"):
        predictor.save_pretrained(tmp_path / "file")
    with pytest.raises(UserError, match="The model card cannot be written: .*eval_results"):
        predictor.save_pretrained(tmp_path / "out", eval_results=[1])
    with pytest.raises(UserError, match="The model card cannot be written: .*object") as error:
        predictor.save_pretrained(tmp_path / "out", anything=object())
    assert "\n" not in str(error.value)
    (tmp_path / "weights" / "model.safetensors").mkdir(parents=True)
    with pytest.raises(UserError, match="model.safetensors cannot be written: .*directory"):
        predictor.save_pretrained(tmp_path / "weights", overwrite=True)


def test_files_in_the_folder_are_kept_unless_told_otherwise(predictor, saved, tmp_path) -> None:
    for name in ("config.yaml", "README.md", "notes.txt"):
        write(tmp_path, name, "mine")
    with pytest.raises(UserError, match=r"holds config.yaml, README.md, which would be replaced: .*overwrite=True"):
        predictor.save_pretrained(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("config.yaml", "README.md", "notes.txt"), "mine"
    )
    predictor.save_pretrained(tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "config.yaml").read_text() == (saved / "config.yaml").read_text()
