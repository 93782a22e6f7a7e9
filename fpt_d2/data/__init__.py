"""Data sets: registration, checks, and the bundled synthetic one (`fpt_d2.data.synthetic` writes it)."""

from . import builtin as _builtin  # noqa: F401 (registers the synthetic data set)
from .check import check_datasets
from .errors import DatasetError
from .register import register_from_config

__all__ = ["DatasetError", "check_datasets", "register_from_config"]
