"""Data sets: registration, checks, and the bundled synthetic one (`fpt_d2.data.synthetic` writes it)."""

from . import builtin as _builtin  # noqa: F401 (registers the synthetic data sets)
from . import sem_seg_sets as _sem_seg_sets  # noqa: F401 (registers the others for semantic segmentation)
from .check import check_datasets, check_instance_datasets, check_names
from .errors import DatasetError
from .register import register_from_config
from .sem_seg_mapper import SemSegMapper, build_train_mapper

__all__ = [
    "DatasetError",
    "SemSegMapper",
    "build_train_mapper",
    "check_datasets",
    "check_instance_datasets",
    "check_names",
    "register_from_config",
]
