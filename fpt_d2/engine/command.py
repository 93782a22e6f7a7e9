"""Moved to :mod:`fpt_d2.cli`."""

from ..cli import (  # noqa: F401
    add_confidence_threshold,
    add_num_images,
    add_opts,
    exit_on_user_errors,
    image_size,
    picture_path,
    positive_int,
)
