"""Every key of the config with values of its own type that make no sense: a sentence, or a training that goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage

from fpt_d2.cli import training_parser
from fpt_d2.config_file import read_config
from fpt_d2.config_values import flat, numbers
from fpt_d2.engine import Trainer, get_default_config, setup
from fpt_d2.errors import UserError
from tests.abuse.cases import Place
from tests.abuse.conftest import forget_data_sets
from tests.abuse.values import in_file
from tests.engine.conftest import CONFIG

# Where things lie, and what is read from there.
PLACES = ("DATASETS", "OUTPUT_DIR", "MODEL.WEIGHTS", "VERSION", "GLOBAL")
# What a key of a section that is off needs to matter.
SWITCHES = {
    "INPUT.CROP": ("INPUT.CROP.ENABLED", True),
    "SOLVER.CLIP_GRADIENTS": ("SOLVER.CLIP_GRADIENTS.ENABLED", True),
    "DATALOADER.REPEAT_THRESHOLD": ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
    "SOLVER.NUM_DECAYS": ("SOLVER.LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR"),
    "SOLVER.BASE_LR_END": ("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"),
    "SOLVER.POLY": ("SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR"),
    "MODEL.BIFPN": ("MODEL.BACKBONE.NAME", "build_resnet_bifpn_backbone"),
}
KEYS = [
    key
    for key, value in flat(get_default_config()).items()
    if not isinstance(value, (bool, CfgNode)) and not key.startswith(PLACES)
]


def senseless(default: Any) -> Iterator[Any]:
    """Values of the type of a default."""
    if isinstance(default, (list, tuple)):
        yield from ([], ["x"], [None], [[]], [float("nan")], [-1])
        if default:
            yield from ([*default, default[-1]], list(default)[:-1])
        if default and all(isinstance(x, (int, float)) for x in numbers(default)):
            yield from ([-1 * x for x in numbers(default)], [0 * x for x in numbers(default)])
    elif isinstance(default, str):
        yield from ("", "nonsense")
    elif isinstance(default, int):
        yield from (-1, 0, -(10**6))
    else:
        yield from (float("nan"), float("inf"), -1.0, 0.0)


@pytest.mark.abuse
@pytest.mark.parametrize("key", KEYS)
def test_no_traceback(key: str, tmp_path: Path, shapes: Path) -> None:
    default = flat(get_default_config())[key]
    for number, value in enumerate(senseless(default)):
        place = Place(tmp_path / str(number), shapes, CONFIG)
        for prefix, (switch, on) in SWITCHES.items():
            if key.startswith(prefix):
                in_file(place, switch, on)
        in_file(place, key, value)
        one_step(place)


def one_step(place: Place) -> None:
    """Train for one iteration, unless a sentence says why not."""
    forget_data_sets()
    try:
        trainer = Trainer(setup(training_parser().parse_args(["--config-file", str(place.config)]), Trainer))
        with EventStorage():
            trainer.run_step()
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000


def test_the_values_of_keys_that_are_not_finite_are_refused(tmp_path: Path, shapes: Path) -> None:
    """Each with one rule; here all of them, which takes no model."""
    place, defaults = Place(tmp_path, shapes, CONFIG), flat(get_default_config())
    before = yaml.safe_load(place.config.read_text())
    keys = [key for key in KEYS if isinstance(defaults[key], float) and not key.endswith("NORM_TYPE")]
    assert len(keys) >= 30
    for key in keys:
        place.config.write_text(yaml.safe_dump(before))
        in_file(place, key, float("nan"))
        with pytest.raises(UserError, match=f"^{key} is nan; allowed: finite numbers$"):
            read_config(str(place.config))
