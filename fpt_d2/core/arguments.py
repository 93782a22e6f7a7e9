"""How constructors of this package refuse a value."""

from __future__ import annotations


class ArgumentError(ValueError):
    """A value that an argument does not allow.

    Attributes:
        argument: its name. value: what was given. allowed: what may be given, in words.
    """

    def __init__(self, argument: str, value: object, allowed: str) -> None:
        super().__init__(f"{argument} is {value!r}; allowed: {allowed}")
        self.argument, self.value, self.allowed = argument, value, allowed


def check_argument(argument: str, value: object, fine: bool, allowed: str) -> None:
    """Raise :class:`ArgumentError` unless ``fine``."""
    if not fine:
        raise ArgumentError(argument, value, allowed)


def one_of(values: object) -> str:
    """``"'a', 'b' or 'c'"``, for :attr:`ArgumentError.allowed`."""
    *first, last = map(repr, values)  # type: ignore[call-overload]
    return f"{', '.join(first)} or {last}" if first else last
