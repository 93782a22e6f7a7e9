"""Files that are not what they should be: one sentence each, and nothing in them is executed."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg

from fpt_d2.checkpoint import WeightsError, find_weights, read_weights
from fpt_d2.checkpoint.files import read_state_dict


class Burglar:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def write_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize(("suffix", "write"), [(".pkl", write_pickle), (".pth", torch.save)])
def test_code_in_a_file_is_not_run(suffix: str, write: Any, tmp_path: Path) -> None:
    path, folder = tmp_path / f"weights{suffix}", tmp_path / "burgled"
    write({"model": {"weight": Burglar(folder)}}, path)
    with pytest.raises(WeightsError, match=r"weights\.p\w+ holds (posix|nt)\.mkdir besides weights"):
        read_weights(str(path))
    assert not folder.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_pickle_protocol(protocol: int, tmp_path: Path) -> None:
    arrays = {
        "c": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.eye(3)),
        "number": np.float64(0.5),
        "empty": np.zeros((0, 2), dtype=np.int64),
    }
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "me"}, protocol=protocol))
    read = read_weights(str(path))["model"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)


def test_pickle_of_python_2(tmp_path: Path) -> None:
    array = np.array([1.5, -2.0], dtype=np.float32)
    # Python 2 wrote byte strings where Python 3 has text.
    data = (
        b"\x80\x02}U\x07conv1_wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + array.tobytes() + b"tbs."
    )
    path = tmp_path / "weights.pkl"
    path.write_bytes(data)
    np.testing.assert_array_equal(read_weights(str(path))["conv1_w"], array)


def test_numpy_numbers_among_the_extras_of_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    extras = {"AP": np.float64(38.5), "count": np.int64(3), "best": np.bool_(True), "loss": np.float32(0.25)}
    torch.save({"model": {"w": torch.ones(1)}, "metrics": extras}, path)
    assert read_weights(str(path))["metrics"] == extras


def test_a_config_among_the_extras_is_named(tmp_path: Path) -> None:
    torch.save({"model": {}, "cfg": get_cfg()}, tmp_path / "model.pth")
    with pytest.raises(WeightsError, match="CfgNode besides weights.*save its weights alone"):
        read_weights(str(tmp_path / "model.pth"))


def test_more_than_weights_in_the_format_before_pytorch_1_6(tmp_path: Path) -> None:
    folder = tmp_path / "burgled"
    torch.save({"w": Burglar(folder)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(WeightsError, match="is cut short or damaged, or holds more than weights") as caught:
        read_weights(str(tmp_path / "old.pth"))
    assert not folder.exists() and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".pyth"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>404</html>", "is a web page instead of weights"),
        (b"\n <html><body>Sign in", "is a web page instead of weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a Git LFS pointer instead of weights"),
        (b"", r"\(0 bytes\) is cut short or damaged"),
        (b"weights", r"\(7 bytes\) is cut short or damaged"),
    ],
)
def test_what_is_no_weights_at_all(content: bytes, said: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=said) as caught:
        read_weights(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("suffix", "write"), [(".pkl", write_pickle), (".pth", torch.save)])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated(suffix: str, write: Any, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    weights = {f"w{i}": np.ones((50, i + 1), dtype=np.float32) for i in range(9)}
    write({"model": weights if suffix == ".pkl" else {n: torch.from_numpy(w) for n, w in weights.items()}}, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(WeightsError, match="is cut short or damaged") as caught:
        read_weights(str(path))
    assert "\n" not in str(caught.value)


def test_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "model.safetensors"
    safetensors.save_file({"w": torch.arange(3.0)}, path)
    assert torch.equal(read_weights(str(path))["w"], torch.arange(3.0))


def test_pickles_can_be_refused(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    weights, paths = (
        {"w": torch.ones(2)},
        [tmp_path / name for name in ("a.pkl", "old.pth", "new.pth", "a.safetensors")],
    )
    write_pickle({"model": {"w": np.ones(2)}}, paths[0])
    torch.save(weights, paths[1], _use_new_zipfile_serialization=False)
    torch.save(weights, paths[2])
    safetensors.save_file(weights, paths[3])
    for path in map(str, paths):
        assert find_weights(path) == path
    for path in map(str, paths[2:]):
        assert find_weights(path, allow_pickle=False) == path
    for path in map(str, paths[:2]):
        said = rf"{path} are a pickle.*MODEL\.WEIGHTS_ALLOW_PICKLE is False: give them as \.safetensors"
        with pytest.raises(WeightsError, match=said) as caught:
            find_weights(path, allow_pickle=False)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["nowhere/model.pth", "catalog://ImageNetPretrained/NoSuchModel", "catalog://none"])
def test_weights_that_are_nowhere(path: str) -> None:
    with pytest.raises(WeightsError, match=path):
        find_weights(path)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), r"\(\d+ bytes\) needs more memory than is free"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), "needs more memory than is free"),
    ],
)
def test_memory_that_is_not_there_is_no_damage(error: Exception, says: str, tmp_path: Path, monkeypatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    torch.save({}, tmp_path / "weights.pth")
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(WeightsError, match=says):
        read_weights(str(tmp_path / "weights.pth"))


def test_a_file_that_cannot_be_opened_is_not_called_damaged(tmp_path: Path, monkeypatch) -> None:
    for path, reason in [(tmp_path, "it is a folder"), (tmp_path / "none.pth", "No such file")]:
        with pytest.raises(WeightsError, match=f"cannot be read: {reason}"):
            read_weights(str(path))

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(WeightsError, match="w.pkl cannot be read: Permission denied"):
        read_weights("w.pkl")
    (tmp_path / "w.pth").touch()
    with pytest.raises(WeightsError, match="w.pth cannot be read: Permission denied"):
        find_weights(str(tmp_path / "w.pth"), allow_pickle=False)


@pytest.mark.parametrize(
    "weight", [torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), torch.ones(2, dtype=torch.complex64)]
)
def test_weights_of_a_kind_that_models_do_not_have(weight: torch.Tensor, tmp_path: Path) -> None:
    torch.save({"a": weight}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="has a weight 'a' without a name, or without values of its own"):
        read_state_dict(str(tmp_path / "weights.pth"))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    for suffix in (".pth", ".pkl", ".safetensors"):
        os.mkfifo(tmp_path / f"weights{suffix}")
        with pytest.raises(WeightsError, match="cannot be read: it is a pipe, not a file"):
            read_weights(str(tmp_path / f"weights{suffix}"))


def test_another_suffix_than_the_format_has_is_named(tmp_path: Path) -> None:
    """To fetch such a file again would not help."""
    pytest.importorskip("safetensors")
    for name in ("weights.pkl", "weights.safetensors"):
        torch.save({"a": torch.ones(1)}, tmp_path / name)
        with pytest.raises(WeightsError, match="begins as a .pth does: rename it to that"):
            read_weights(str(tmp_path / name))
    (tmp_path / "weights.pth").write_bytes(b"\x02" + bytes(7) + b'{"')
    with pytest.raises(WeightsError, match="begins as a .safetensors does: rename it to that"):
        read_weights(str(tmp_path / "weights.pth"))
    write_pickle({"a": np.ones(1)}, tmp_path / "weights.PKL")
    assert list(read_weights(str(tmp_path / "weights.PKL"))) == ["a"]


def test_an_address_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be fetched: Invalid IPv6 URL"):
        find_weights("http://[::1/weights.pth")
