"""Weights files made to run code or to fill the memory: none does, and each is one sentence."""

from __future__ import annotations

import io
import json
import pickle
import resource
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fpt_d2.checkpoint import WeightsError, find_weights
from fpt_d2.checkpoint.files import read_state_dict

MARK = "PWNED"
SHELL = f"touch {MARK}"
# What a pickle may try to call, with the arguments that would leave the mark.
CALLS: list[tuple[str, tuple[Any, ...]]] = [
    ("os.system", (SHELL,)),
    ("posix.system", (SHELL,)),
    ("nt.system", (SHELL,)),
    ("subprocess.check_output", (["touch", MARK],)),
    ("subprocess.Popen", (["touch", MARK],)),
    ("pty.spawn", (["touch", MARK],)),
    ("builtins.eval", (f"open({MARK!r}, 'w')",)),
    ("builtins.exec", (f"open({MARK!r}, 'w')",)),
    ("builtins.open", (MARK, "w")),
    ("builtins.getattr", ("os", "system")),
    ("builtins.__import__", ("os",)),
    ("builtins.compile", ("1", "x", "exec")),
    ("importlib.import_module", ("antigravity",)),
    ("runpy.run_path", (MARK,)),
    ("pathlib.Path.touch", (MARK,)),
    ("shutil.rmtree", (MARK,)),
    ("webbrowser.open", ("http://127.0.0.1:1",)),
    ("code.interact", ()),
    ("timeit.timeit", (f"open({MARK!r}, 'w')",)),
    ("pickle.loads", (b"cos\nsystem\n(S'touch PWNED'\ntR.",)),
    ("torch.load", (MARK,)),
    ("torch.hub.load", ("x/y", "z")),
    ("torch._utils._rebuild_parameter", (1, True, {})),
    ("torch.jit.load", (MARK,)),
    ("numpy.load", (MARK, None, True)),
    ("numpy.testing._private.utils.runstring", (f"open({MARK!r}, 'w')", {})),
    ("numpy.core.multiarray.fromfile", (MARK,)),
    ("detectron2.config.LazyConfig.load", (MARK,)),
    ("operator.attrgetter", ("x",)),
    ("functools.partial", (print,)),
    ("types.CodeType", ()),
    ("ctypes.CDLL", ("libc.so.6",)),
    ("_codecs.decode", (b"x", "zlib")),
    ("codecs.open", (MARK, "w")),
    ("bdb.Bdb.run", (MARK,)),
]


def called(name: str, arguments: tuple[Any, ...], *, protocol: int = 2) -> bytes:
    """A pickle of {"model": {"w": name(*arguments)}}."""
    module, _, function = name.rpartition(".")
    body = pickle.dumps(arguments, protocol=protocol)[2:-1]  # without its head and its end
    call = b"c" + f"{module}\n{function}\n".encode() + body + b"R"
    return b"\x80\x02}X\x05\x00\x00\x00model}X\x01\x00\x00\x00w" + call + b"ss."


def torch_zip(content: bytes, *, others: dict[str, bytes] | None = None, compressed: bool = False) -> bytes:
    """What torch.save writes, around any pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        for name, data in (others or {}).items():
            archive.writestr(f"archive/{name}", data)
    return file.getvalue()


def legacy(content: bytes) -> bytes:
    """What torch.save wrote before PyTorch 1.6, around any pickle."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    return b"".join(pickle.dumps(part, protocol=2) for part in head) + content


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def safetensors(header: Any, data: bytes = b"", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def many_arrays_of_the_same_bytes() -> bytes:
    """A megabyte, and five hundred arrays that each copy it, as text of Python 2 is copied."""
    text, count = b"T" + struct.pack("<I", 2**20) + b"x" * 2**20 + b"q\x01", 500
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01J\x00\x00\x10\x00\x85"
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89h\x01tb"
    )
    rows = b"".join(f"X\x04\x00\x00\x00w{i:03}".encode() + array + b"s" for i in range(count))
    return b"\x80\x02" + text + b"0}" + rows + b"."


def tuples_within_tuples_as_a_key() -> bytes:
    return b"\x80\x02})" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60)) + b"K\x01s."


def an_object_array() -> bytes:
    return pickle.dumps({"model": {"w": np.array([print, 1], dtype=object)}}, protocol=2)


TENSOR = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
BOMB = torch_zip(b"\x80\x02}.", others={"data/0": bytes(2**28)}, compressed=True)
FILES: dict[str, Callable[[], bytes]] = {
    "pickle_of_many_copies.pkl": many_arrays_of_the_same_bytes,
    "pickle_with_a_key_of_tuples.pkl": tuples_within_tuples_as_a_key,
    "pickle_of_objects.pkl": an_object_array,
    "pickle_with_a_far_memo.pkl": lambda: b"\x80\x02]r\xff\xff\xff\x7f.",
    "pickle_with_long_bytes.pkl": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 2**36) + b"x.",
    "pickle_with_a_long_bytearray.pkl": lambda: b"\x80\x05\x96" + struct.pack("<Q", 2**36) + b"x.",
    "pickle_with_a_long_frame.pkl": lambda: b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}.",
    "pickle_of_a_large_array.pkl": lambda: called("numpy.ndarray", ((2**36,), "f8")),
    "pickle_of_long_text.pkl": lambda: called("numpy.dtype", ("S1000000000",)),
    "pickle_of_records.pkl": lambda: called("numpy.dtype", ("O",)),
    "pickle_of_a_codec.pkl": lambda: called("_codecs.encode", ("x", "idna")),
    "pickle_of_an_extension.pkl": lambda: b"\x80\x02\x82\x01.",
    "pickle_of_a_set.pkl": lambda: pickle.dumps({"model": {1, 2}}, protocol=4),
    "pickle_that_persists.pkl": lambda: b"\x80\x02X\x01\x00\x00\x00aQ.",
    "not_weights.pkl": lambda: pickle.dumps(["a", 1]),
    "names_that_are_numbers.pth": lambda: saved({1: torch.ones(1)}),
    "without_values.pth": lambda: saved({"w": torch.ones(10**9, device="meta")}),
    "few_for_many.pth": lambda: saved({"w": torch.ones(1).expand(10**12)}),
    "sparse.pth": lambda: saved({"w": torch.ones(2).to_sparse()}),
    "bomb.pth": lambda: BOMB,
    "bomb_named_otherwise.pyth": lambda: BOMB,
    "zip_without_a_pickle.pth": lambda: torch_zip(b""),
    "zip_cut_short.pth": lambda: saved({"w": torch.ones(100)})[:-100],
    "npz.npz": lambda: torch_zip(called("os.system", (SHELL,))),
    "torchscript.pth": lambda: torch_zip(b"\x80\x02}.", others={"constants.pkl": b"\x80\x02)."}),
    "header_too_long.safetensors": lambda: safetensors({}, size=2**60),
    "header_that_is_no_json.safetensors": lambda: safetensors(b"{"),
    "header_that_is_a_list.safetensors": lambda: safetensors([1]),
    "header_far_outside.safetensors": lambda: safetensors(
        {"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    ),
    "header_that_overlaps.safetensors": lambda: safetensors({**TENSOR, "v": TENSOR["w"]}, bytes(8)),
    "header_with_another_size.safetensors": lambda: safetensors({"w": {**TENSOR["w"], "shape": [2**62, 4]}}, bytes(8)),
    "header_of_an_unknown_type.safetensors": lambda: safetensors({"w": {**TENSOR["w"], "dtype": "PY"}}, bytes(8)),
    "truncated.safetensors": lambda: safetensors(TENSOR, bytes(3)),
    "empty.safetensors": lambda: b"",
}
for number, (name, arguments) in enumerate(CALLS):
    content = called(name, () if name == "functools.partial" else arguments)
    form = ("pkl", "pth", "old.pth", "pyth")[number % 4]
    FILES[f"{name}.{form}"] = {
        "pkl": lambda content=content: content,
        "pth": lambda content=content: torch_zip(content),
        "old.pth": lambda content=content: legacy(content),
        "pyth": lambda content=content: torch_zip(content, compressed=True),
    }[form]


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_runs_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"weights_{name}"
    path.write_bytes(FILES[name]())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError) as caught:
        read_state_dict(find_weights(str(path)))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "kB"


@pytest.mark.parametrize("file", ["old_names.pkl", "pickle_of_arrays.pkl"])
def test_what_is_harmless_is_read(file: str, tmp_path: Path) -> None:
    arrays = {"w": np.arange(4.0, dtype=np.float32), "big_endian": np.ones(2, dtype=">f4"), "text": np.array(["a"])}
    path = tmp_path / file
    path.write_bytes(pickle.dumps({"model": {n: arrays[n] for n in ("w", "big_endian")}, "names": arrays["text"]}))
    read = read_state_dict(str(path))
    assert all(np.array_equal(read[name], arrays[name]) for name in read) and set(read) == {"w", "big_endian"}


@pytest.mark.parametrize(
    "address",
    [
        "detectron2://../../../x.pkl",
        "detectron2://a/%2e%2e/%2e%2e/x.pkl",
        "catalog://../x",
        "package://../models",
        "http://127.0.0.1:1/a/../../x.pth",
        "https://127.0.0.1:1/../x.pth?y=1",
    ],
)
def test_an_address_stays_in_its_folder(address: str) -> None:
    with pytest.raises(WeightsError, match=r"have an address with '\.\.' in it"):
        find_weights(address)


def test_there_are_many() -> None:
    assert len(FILES) >= 60
