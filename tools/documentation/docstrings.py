"""An extension of griffe: docstrings as its parser and Markdown want them."""

from __future__ import annotations

import re
from typing import Any

import griffe

# A role, such as :class:`.level.Level`, which becomes code.
ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`[.~]*([^`]+)`")
# "fine, coarse: text": one description of several arguments, which becomes one for each.
SHARED = re.compile(r"^(?P<indent> *)(?P<names>\**\w+(?:, \**\w+)+): (?P<text>.*(?:\n(?P=indent) +.*)*)", re.MULTILINE)


def parsed_form(docstring: str) -> str:
    """A docstring with code in place of roles, and a line for each argument."""

    def separate(shared: re.Match[str]) -> str:
        return "\n".join(f"{shared['indent']}{name}: {shared['text']}" for name in shared["names"].split(", "))

    before, args, after = ROLE.sub(r"`\1`", docstring).partition("Args:\n")
    return before + args + SHARED.sub(separate, after)


class Readable(griffe.Extension):
    """Rewrites the docstring of each object that is read."""

    def on_instance(self, *, obj: griffe.Object, **others: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = parsed_form(obj.docstring.value)
