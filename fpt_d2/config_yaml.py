"""The text of a config file, looked at before anything is made of it: a file of a stranger runs nothing and ends."""

from __future__ import annotations

import io
from collections import Counter

import yaml
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from .errors import ConfigError
from .paths import climbs, kind_of

# A config file has some kB.
_MOST_CHARACTERS = 1_000_000
# Values once every alias stands for what it names, "billion laughs" being a few lines of aliases of aliases.
_MOST_VALUES = 100_000
# What plain values have, and the key "<<".
_TAGS = {*yaml.SafeLoader.yaml_constructors, "tag:yaml.org,2002:merge"}


class CheckedYaml(CfgNode):
    """Detectron2's ``load_yaml_with_base``, which here checks the text of every file on the way.

    Raises ConfigError for a tag, which can run code, for a key that is given twice, of which YAML drops one, for
    aliases that multiply or hold themselves, and for what is not a file, is too large, or has no keys.
    """

    @classmethod
    def _open_cfg(cls, filename: str) -> io.StringIO:
        origin = f"The config file {filename}"
        if climbs(filename):
            raise ConfigError(f"{origin} is an address with '..' in it: write the address itself")
        local = PathManager.get_local_path(filename)
        if kind_of(local) not in ("", "a file"):  # a folder, or a pipe, which might never end
            raise ConfigError(f"{origin} is not a file: give a .yaml file")
        try:
            with PathManager.open(local, "r", encoding="utf-8-sig") as file:
                text = file.read(_MOST_CHARACTERS + 1)
        except UnicodeDecodeError as error:
            raise ConfigError(f"{origin} is not text in UTF-8: save it as that") from error
        if len(text) > _MOST_CHARACTERS:
            raise ConfigError(f"{origin} is larger than a config can be: give a .yaml file of keys and values")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(f"{origin} does not consist of keys and values")
        _count(root, {}, origin)
        return io.StringIO(text)


def _count(node: yaml.Node, counts: dict[int, int], origin: str) -> int:
    """The values within a node, aliases included, after all checks of them; ``counts`` are those of earlier nodes."""
    if id(node) in counts:
        if not counts[id(node)]:
            raise ConfigError(f"{origin} has an alias within what it stands for, line {node.start_mark.line + 1}")
        return counts[id(node)]
    if node.tag not in _TAGS:
        where = f"{origin} has the tag {node.tag} in line {node.start_mark.line + 1}"
        raise ConfigError(f"{where}, and tags can run code: write the value itself")
    _check_scalar(node, origin)
    counts[id(node)] = 0
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if twice := [key for key, number in Counter(keys).items() if number > 1]:
            raise ConfigError(f"{origin} has the key {twice[0]} twice, below line {node.start_mark.line + 1}: keep one")
        children = [child for pair in node.value for child in pair]
    else:
        children = node.value if isinstance(node, yaml.SequenceNode) else []
    counts[id(node)] = count = 1 + sum(_count(child, counts, origin) for child in children)
    if count > _MOST_VALUES:
        raise ConfigError(f"{origin} has more than {_MOST_VALUES} values, aliases counted: no config has")
    return count


def _check_scalar(node: yaml.Node, origin: str) -> None:
    """Raises ConfigError for what looks like a date or a number and is none, 2001-99-99 or thousands of digits."""
    if not isinstance(node, yaml.ScalarNode) or node.tag.rpartition(":")[2] not in ("int", "float", "timestamp"):
        return
    try:
        yaml.constructor.SafeConstructor().construct_object(node)
    except (ValueError, OverflowError) as error:
        value = f"{node.value[:40]} in line {node.start_mark.line + 1}, which cannot be read ({error})"
        raise ConfigError(f"{origin} has {value}: write another value, or text in quotes") from error
