"""The small data set and model of tests/engine, once for the whole catalogue."""

from tests.engine.conftest import fresh_loggers, one_thread, shapes, train_net

__all__ = ["fresh_loggers", "one_thread", "shapes", "train_net"]
