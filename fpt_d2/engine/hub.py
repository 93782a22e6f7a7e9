"""Trained models as folders of the Hugging Face Hub: weights as safetensors, the config, names of classes, a card.

Nothing of such a folder is executed when it is read. huggingface_hub and safetensors are imported where they are used.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from fvcore.common.config import BASE_KEY
from torch import nn

from ..config import SEMANTIC_SEGMENTATION
from ..config_file import read_config, without_paths
from ..config_yaml import CheckedYaml
from ..errors import UserError, disk_sentence, printable
from ..paths import read_file, why
from .inference import KINDS

CONFIG, NAMES, WEIGHTS, CARD = "config.yaml", "config.json", "model.safetensors", "README.md"
_MOST_NAMED = 20  # on a card
_CARD = """---
{data}
---

# {title}

{architecture} with the backbone {backbone}, {parameters:.1f} million parameters. It needs fpt_d2, the Feature Pyramid
Transformer for Detectron2.

```python
import fpt_d2

predictor = fpt_d2.Predictor.from_pretrained("{repo}")
found = predictor("photo.jpg")
```

Classes: {classes}.
"""


def inner(model: nn.Module) -> nn.Module:
    """The model itself, out of what predicts with it in windows or at several scales."""
    while isinstance(getattr(model, "model", None), nn.Module):
        model = model.model  # type: ignore[assignment]
    return model


def check_free(folder: Path) -> None:
    """Raises UserError if writing a model would replace a file, such as the config of a training or a card."""
    if there := [name for name in (CONFIG, NAMES, WEIGHTS, CARD) if os.path.lexists(folder / name)]:
        raise UserError(
            f"{folder} holds {', '.join(there)}, which would be replaced: give another folder, or overwrite=True"
        )


def save(
    folder: Path,
    cfg: CfgNode,
    model: nn.Module,
    names: Mapping[str, list[str]],
    card: Mapping[str, Any],
    repo_id: str = "",
) -> Path:
    """Write a model.

    Args:
        folder: made where it does not exist.
        cfg: as it was read.
        model: of the config.
        names: those of "thing" and of "stuff", as far as the model has such classes.
        card: arguments of ``ModelCardData``.
        repo_id: by which the card's example loads it.

    Raises:
        UserError: a package is missing, or the folder cannot be written to.
    """
    hub, safetensors = _package("huggingface_hub"), _package("safetensors")
    write = _package("safetensors.torch").save_file
    # Copies: of tensors that share their memory safetensors would refuse to write any.
    weights = {name: weight.detach().cpu().contiguous().clone() for name, weight in model.state_dict().items()}
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    text = _card(hub, repo_id or folder.name, cfg, names, parameters, card)
    content = {"library_name": "fpt_d2", "architecture": cfg.MODEL.META_ARCHITECTURE, "class_names": dict(names)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(weights, folder / WEIGHTS, metadata={"format": "pt"})
        (folder / CONFIG).write_text(without_paths(cfg, WEIGHTS).dump(), encoding="utf-8")
        (folder / NAMES).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / CARD).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(disk_sentence(error)) from error
    except safetensors.SafetensorError as error:  # a full disk, too
        raise UserError(f"{folder / WEIGHTS} cannot be written: {error}") from error
    return folder


def push(
    write: Callable[[str], object], repo_id: str, *, private: bool | None, token: str | None, commit_message: str
) -> str:
    """Upload the folder that ``write`` fills, and return the address of the commit. Raises UserError."""
    api = _package("huggingface_hub").HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        write(folder)
        with _hub_errors(f"{repo_id} cannot be uploaded"):
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message)
    return str(commit.commit_url)


def find(
    folder_or_repo_id: str | os.PathLike[str],
    *,
    revision: str | None,
    token: str | None,
    cache_dir: str | os.PathLike[str] | None,
) -> Path:
    """The folder of a model, fetched from the Hub unless it is one here.

    Raises:
        UserError: it does not exist, cannot be fetched, or lacks a file.
    """
    name = os.fspath(folder_or_repo_id)
    folder, is_here = Path(name), os.path.isdir(name)
    if not is_here:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
            raise UserError(f"There is no folder {name}, and a model on the Hub is called user/name: give either")
        hub = _package("huggingface_hub")
        options = {"revision": revision, "token": token, "cache_dir": cache_dir}
        with _hub_errors(f"{name} is not a folder here, and cannot be fetched from the Hub"):
            folder = Path(hub.snapshot_download(name, allow_patterns=[CONFIG, NAMES, WEIGHTS], **options))
    for file in (CONFIG, NAMES, WEIGHTS):
        if not (folder / file).is_file():
            raise UserError(f"{name} has no {file}: it is not a model that Predictor.save_pretrained has written")
    return folder


def read_config_of(folder: Path) -> CfgNode:
    """The config of a model, checked; it names no data, and no file but the weights. Raises UserError."""
    file = folder / CONFIG
    with suppress(yaml.YAMLError, RecursionError):  # read_config tells of these
        # Parsed, as YAML has many ways to write a key.
        if BASE_KEY in yaml.safe_load(CheckedYaml._open_cfg(str(file))):
            raise UserError(f"{file} is based on another file by _BASE_, which a model's may not be: save it anew")
    cfg = without_paths(read_config(str(file)), WEIGHTS)
    cfg.MODEL.WEIGHTS_ALLOW_PICKLE = False
    return cfg


def read_names(folder: Path) -> dict[str, list[str]]:
    """The names of the classes of a model, by kind: "thing", "stuff". Raises UserError."""
    file = folder / NAMES
    try:
        content = json.loads(read_file(file))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {why(error)}") from error
    names = content.get("class_names") if isinstance(content, dict) else None
    found = {kind: names.get(kind, []) for kind in KINDS} if isinstance(names, dict) else {}
    for kind in KINDS:
        own = found.get(kind)
        if not isinstance(own, list) or not all(isinstance(name, str) for name in own):
            raise UserError(f'{file} lacks the names of classes: give "class_names" as {{"thing": ["cat", "dog"]}}')
    return {kind: [printable(name) for name in own] for kind, own in found.items()}


def _card(
    hub: Any, repo: str, cfg: CfgNode, names: Mapping[str, list[str]], parameters: float, card: Mapping[str, Any]
) -> str:
    is_semantic = cfg.MODEL.META_ARCHITECTURE == SEMANTIC_SEGMENTATION
    has_masks = is_semantic or cfg.MODEL.MASK_ON or cfg.MODEL.META_ARCHITECTURE == "PanopticFPN"
    own = {
        "library_name": "fpt_d2",
        "pipeline_tag": "image-segmentation" if has_masks else "object-detection",
        "tags": ["detectron2", "feature-pyramid-transformer"],
    }
    try:
        data = hub.ModelCardData(**(own | dict(card))).to_yaml()
        yaml.safe_load(data)  # which plain values alone pass
    except (TypeError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"The model card cannot be written: {' '.join(str(error).split())}") from error
    classes = [name for kind in KINDS for name in names.get(kind, ())]
    listed = ", ".join(classes[:_MOST_NAMED]) + f" and {len(classes) - _MOST_NAMED} more" * (len(classes) > _MOST_NAMED)
    text = _CARD.format(
        data=data,
        title=repo.rpartition("/")[2],
        repo=repo,
        architecture=cfg.MODEL.META_ARCHITECTURE,
        backbone=cfg.MODEL.BACKBONE.NAME,
        parameters=parameters,
        classes=listed or "none",
    )
    return str(hub.ModelCard(text))


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise UserError(f"Models of the Hub need {package}: pip install huggingface_hub safetensors") from error


@contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """Around calls of huggingface_hub alone, whose errors are those of whatever package it fetches with."""
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{what}: {said}") from error
