"""What is wrong with data sets, said before a training or an evaluation starts."""

from .datasets import check_datasets, check_instance_datasets, check_names

__all__ = ["check_datasets", "check_instance_datasets", "check_names"]
