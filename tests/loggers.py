"""Detectron2's loggers, which keep what they were first given: files, and the standard output of one test."""

from __future__ import annotations

import logging

from detectron2.utils.logger import setup_logger


def forget_loggers() -> None:
    """Let the next program of this process set up its own."""
    setup_logger.cache_clear()
    for name in ("detectron2", "fvcore", "fpt_d2"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
