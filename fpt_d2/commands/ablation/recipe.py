"""What an ablation compares: variants of a config, their seeds and metrics, from a recipe file or a command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...config_path import did_you_mean
from ...errors import UserError
from ...model_zoo import find_bundled

START = "start"  # the row and folder of what all trainings start from
DEFAULT_METRICS = ("bbox/AP",)

# The keys of a recipe, of its variants and of its cost, with the type of each.
_KEYS = {
    "config": str,
    "keys": dict,
    "seeds": list,
    "metrics": list,
    "baseline": str,
    "claims": list,
    "cost": dict,
    "variants": dict,
}
_VARIANT_KEYS = {"config": str, "keys": dict, "baseline": str, "equal_cost_to": str}
_COST_KEYS = {"steps": int, "rounds": int}
_TYPES = {str: "a word", dict: "keys and values", list: "a list", int: "a whole number"}


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    Attributes:
        opts: keys and values in turn, as on a command line.
        baseline: the variant that it is compared with, seed by seed.
        equal_cost_to: the variant whose training it shall cost as much as, by its number of iterations.
        is_claim: a claim rests on it.
    """

    name: str
    config_file: str
    opts: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: str | None = None
    equal_cost_to: str | None = None
    is_claim: bool = False


@dataclass(frozen=True)
class Recipe:
    """What is compared.

    Attributes:
        steps, rounds: training steps that the cost of a variant is measured by, and how often; no steps: it is not.
    """

    variants: tuple[Variant, ...]
    metrics: tuple[str, ...]
    steps: int = 0
    rounds: int = 3

    def variant(self, name: str) -> Variant:
        return next(variant for variant in self.variants if variant.name == name)


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe that a command line names or spells out.

    Raises:
        UserError: it is wrong, in one sentence.
    """
    if args.recipe is None:
        recipe = _from_arguments(args)
    else:
        config = args.config_file and os.path.abspath(args.config_file)
        instead = {"config": config, "seeds": args.seeds, "metrics": args.metric, "baseline": args.baseline}
        recipe = read_recipe(args.recipe, args.opts, **instead)
    names = [variant.name for variant in recipe.variants] + [START] * args.with_start
    if len(set(map(folder_name, names))) < len(names):
        raise UserError(f"Variants: the names {', '.join(names)} must differ")
    return recipe


def folder_name(variant: str) -> str:
    return "".join(c if c.isalnum() or c in "-+." else "_" for c in variant)


def _from_arguments(args: argparse.Namespace) -> Recipe:
    variants = tuple(_variant_of_words(args, *words) for words in args.variant)
    recipe = Recipe(variants, tuple(args.metric or DEFAULT_METRICS))
    _check_names(recipe, "The command line")
    return recipe


def _variant_of_words(args: argparse.Namespace, name: str, *words: str) -> Variant:
    has_file = bool(words) and words[0].endswith((".yaml", ".yml", ".py"))
    config_file = words[0] if has_file else args.config_file
    if config_file is None:
        raise UserError(f"--variant {name} names no config file: add one to it, or --config-file")
    seeds = _check_seeds(args.seeds or [1], "--seeds")
    opts = (*args.opts, *words[has_file:])
    return Variant(name, _check_file(config_file), opts, seeds, _other(name, args.baseline))


def read_recipe(file: str | Path, opts: Sequence[str] = (), **instead: Any) -> Recipe:
    """Read a recipe file; its config files are relative to it.

    Args:
        file: a path or, where there is none of that name, the name of a recipe that comes with fpt_d2.
        opts: keys and values beside the recipe's, for all variants that do not have them themselves.
        instead: ``config``, ``seeds``, ``metrics`` or ``baseline`` in the place of the recipe's; None for those.

    Raises:
        UserError: it is wrong, in one sentence.
    """
    origin = f"The recipe {file}"
    if not os.path.exists(file):
        file = find_bundled(Path(file).as_posix(), "recipes") or file
    content = _checked(_load(file), _KEYS, origin) | {key: value for key, value in instead.items() if value}
    metrics = content.get("metrics")
    if not metrics or not all(isinstance(metric, str) for metric in metrics):
        raise UserError(f"{origin} names no metric: add metrics, such as metrics: [bbox/AP]")
    if not content.get("variants"):
        raise UserError(f"{origin} has no variants: add some, each with a name and the keys that are its own")
    content["seeds"] = _check_seeds(content.get("seeds", [1]), f"{origin}: seeds")
    variants = tuple(_read_variant(file, content, opts, name) for name in content["variants"])
    recipe = Recipe(variants, tuple(metrics), **_read_cost(content, variants, origin))
    _check_names(recipe, origin, content.get("claims", ()))
    return recipe


def _read_variant(file: str | Path, content: Mapping[str, Any], opts: Sequence[str], name: Any) -> Variant:
    origin = f"The recipe {file}: variant {name}"
    if not isinstance(name, str):
        raise UserError(f"{origin} is not a word: put it in quotes")
    own = _checked(content["variants"][name] or {}, _VARIANT_KEYS, origin)
    config = own.get("config", content.get("config"))
    if config is None:
        raise UserError(f"{origin} names no config: add one to it, or to the recipe")
    is_claim = name in content.get("claims", ())
    return Variant(
        name,
        os.path.normpath(Path(file).parent / _check_file(config)),
        (*_opts(content.get("keys", {})), *opts, *_opts(own.get("keys", {}))),
        content["seeds"] if is_claim or "claims" not in content else content["seeds"][:1],
        _other(name, own.get("baseline", content.get("baseline"))),
        own.get("equal_cost_to"),
        is_claim,
    )


def _load(file: str | Path) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key that is given twice, of which YAML would drop one."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value]
            if twice := [key for key in keys if keys.count(key) > 1 and key != "<<"]:
                raise UserError(f"The recipe {file} has {twice[0]} twice")
            mapping: dict[Any, Any] = super().construct_mapping(node, deep)
            return mapping

    try:
        return yaml.load(Path(file).read_text(encoding="utf-8"), Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The recipe {file} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"The recipe {file} is not valid YAML: {' '.join(str(error).split())}") from error


def _checked(content: Any, types: Mapping[str, type], where: str) -> dict[str, Any]:
    """``content`` if it has no other keys, and values of these types."""
    if not isinstance(content, dict):
        raise UserError(f"{where} does not consist of keys and values")
    for key, value in content.items():
        if key not in types:
            raise UserError(f"{where} is wrong: there is no key {key}{did_you_mean(str(key), types)}")
        if not isinstance(value, types[key]) or isinstance(value, bool):
            raise UserError(f"{where} is wrong: {key} is {value!r}; allowed: {_TYPES[types[key]]}")
    return content


def _read_cost(content: Mapping[str, Any], variants: Iterable[Variant], origin: str) -> dict[str, int]:
    """Measured where the recipe has ``cost``, or a variant needs it."""
    if "cost" not in content and not any(variant.equal_cost_to for variant in variants):
        return {}
    cost = {"steps": 8, "rounds": 3} | _checked(content.get("cost", {}), _COST_KEYS, f"{origin}: cost")
    for key, value in cost.items():
        if value < 1:
            raise UserError(f"{origin}: cost.{key} is {value}; allowed: 1 or more")
    return cost


def _check_names(recipe: Recipe, origin: str, claims: Iterable[Any] = ()) -> None:
    """Raises UserError unless every variant that is named exists, with seeds and iterations to compare with."""
    names = [variant.name for variant in recipe.variants]
    named = [("claims", claim) for claim in claims]
    for variant in recipe.variants:
        named += [("baseline", variant.baseline)] if variant.baseline else []
        named += [(f"equal_cost_to of {variant.name}", variant.equal_cost_to)] if variant.equal_cost_to else []
    for key, name in named:
        if name not in names:
            raise UserError(
                f"{origin} is wrong: {key} names {name}, which is not a variant{did_you_mean(str(name), names)}"
            )
    for variant in recipe.variants:
        if variant.is_claim and variant.baseline and not recipe.variant(variant.baseline).is_claim:
            raise UserError(
                f"{origin} is wrong: claims has {variant.name} and not {variant.baseline}, which it is compared with"
            )
        if variant.equal_cost_to and (further := recipe.variant(variant.equal_cost_to).equal_cost_to):
            raise UserError(
                f"{origin} is wrong: equal_cost_to of {variant.name} names {variant.equal_cost_to}, whose own cost "
                f"follows {further}: name a variant that has its own number of iterations"
            )


def _check_seeds(seeds: Sequence[Any], where: str) -> tuple[int, ...]:
    text = f"{where} {' '.join(map(str, seeds))}"
    if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise UserError(f"{text}: allowed are whole numbers from 0")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{text}: give each seed once")
    return tuple(seeds)


def _check_file(config_file: str) -> str:
    if config_file.endswith(".py"):
        raise UserError(f"{config_file} is a lazy config, which cannot be compared here: give a .yaml file")
    return config_file


def _other(name: str, baseline: str | None) -> str | None:
    return None if baseline == name else baseline


def _opts(keys: Mapping[str, Any], prefix: str = "") -> tuple[str, ...]:
    """Keys and values in turn, sections by their full names."""
    words: list[str] = []
    for key, value in keys.items():
        if isinstance(value, dict):
            words += _opts(value, f"{prefix}{key}.")
        else:
            words += [f"{prefix}{key}", value if isinstance(value, str) else repr(value)]
    return tuple(words)
