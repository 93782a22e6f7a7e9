"""Weights by their addresses, as Detectron2 fetches them: from a server of our own in place of the model zoo's."""

import pickle
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from detectron2.utils import file_io
from torch import nn

from fpt_d2.checkpoint import FPTCheckpointer, WeightsError, find_weights

from .conftest import build, small_config

NAME = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl"


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder that is served."""
    (tmp_path / "served").mkdir()
    return tmp_path / "served"


@pytest.fixture
def server(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The server's address, which ``detectron2://`` stands for. What is fetched goes to the test's folder."""
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(root)))
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{httpd.server_port}/"
    monkeypatch.setattr(file_io.Detectron2Handler, "S3_DETECTRON2_PREFIX", address)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield address
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def write_weights(model: nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.numpy() for name, weight in model.state_dict().items()}
    path.write_bytes(pickle.dumps({"model": weights, "__author__": "Detectron2 Model Zoo"}))


@pytest.mark.parametrize("is_zoo", [True, False])
def test_every_weight_is_loaded(
    is_zoo: bool, server: str, root: Path, tmp_path: Path, fpn_model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    write_weights(fpn_model, root / NAME)
    cfg = small_config(fpt=True)
    cfg.INPUT.FORMAT = "RGB"
    model = build(cfg, seed=1)
    FPTCheckpointer(model, whole=True).load(("detectron2://" if is_zoo else server) + NAME)
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in fpn_model.state_dict().items())
    assert "are of Detectron2's model zoo. Set INPUT.FORMAT BGR" in caplog.text
    (root / NAME).unlink()  # it is kept
    assert Path(find_weights(server + NAME)).is_relative_to(tmp_path / "cache")


def test_what_follows_a_question_mark_is_detectron2s(server: str, root: Path, fpn_model: nn.Module) -> None:
    prefix = "backbone.bottom_up."
    trunk = {n[len(prefix) :]: w for n, w in fpn_model.state_dict().items() if n.startswith(prefix)}
    torch.save({"model": trunk}, root / "trunk.pth")
    model = build(small_config(fpt=True), seed=1)
    FPTCheckpointer(model).load(f"{server}trunk.pth?matching_heuristics=True")
    assert all(torch.equal(model.state_dict()[prefix + name], weight) for name, weight in trunk.items())


@pytest.mark.parametrize("is_zoo", [True, False])
def test_what_is_not_there_and_what_is_a_page(is_zoo: bool, server: str, root: Path) -> None:
    path = ("detectron2://" if is_zoo else server) + "login/model.pkl"
    checkpointer = FPTCheckpointer(build(small_config(fpt=True)))
    with pytest.raises(WeightsError, match=f"The weights {path} cannot be fetched: HTTP Error 404") as caught:
        checkpointer.load(path)
    assert "\n" not in str(caught.value)
    (root / "login").mkdir()
    (root / "login" / "model.pkl").write_text("<!DOCTYPE html>\n<html><body>Sign in</body></html>")
    with pytest.raises(WeightsError, match="model.pkl is a web page instead of weights: delete it and fetch") as caught:
        checkpointer.load(path)
    assert "\n" not in str(caught.value)
