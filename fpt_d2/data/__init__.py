"""Data sets (:mod:`.datasets`, of which :mod:`.synthetic` draws the bundled ones), their checks, mapper and loader."""

from ..errors import DatasetError
from .checks import check_datasets, check_instance_datasets, check_names
from .datasets import register_from_config
from .images import read_image
from .mapper import InstanceMapper, SemSegMapper, build_train_mapper, check_input_config
from .train_loader import TrainLoader, build_train_loader, resumable_loader

__all__ = [
    "DatasetError",
    "InstanceMapper",
    "SemSegMapper",
    "TrainLoader",
    "build_train_loader",
    "build_train_mapper",
    "check_datasets",
    "check_input_config",
    "check_instance_datasets",
    "check_names",
    "read_image",
    "register_from_config",
    "resumable_loader",
]
