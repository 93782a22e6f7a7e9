"""The error of everything that is wrong with a data set."""


class DatasetError(ValueError):
    """A data set that cannot be used: not registered, not there, or its files are wrong."""
