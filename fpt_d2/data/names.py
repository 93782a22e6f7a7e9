"""Names for what is made of files, such as pictures of images, that never meet."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path


def is_plain_text(name: str) -> bool:
    """Whether a name is not blank and has no control characters, which steer a terminal, and nothing that UTF-8 cannot
    hold: half of a pair of surrogates, or bytes of a file name."""
    return bool(name.strip()) and not {unicodedata.category(character) for character in name} & {"Cc", "Cs"}


def distinct_names(files: Iterable[str], suffix: Callable[[str], str] = lambda file: "") -> dict[str, str]:
    """Name each file by its own name with another suffix; where two would be alike, all with their folders.

    What is alike even then, ``a.jpg`` and ``a.png`` without suffix, is numbered. Case is ignored, as some file systems
    do.

    Args:
        suffix: that of the name of a file.
    """
    files = list(dict.fromkeys(files))
    names, ends = {file: Path(file).stem for file in files}, {file: suffix(file) for file in files}
    if len({f"{names[file]}{ends[file]}".lower() for file in files}) < len(names):
        parents = {file: Path(os.path.abspath(file)).parent for file in files}
        common = os.path.commonpath(parents.values())
        names = {file: "_".join([*parents[file].relative_to(common).parts, Path(file).stem]) for file in files}
    taken: set[str] = set()
    for file, name in names.items():
        count = 1
        while f"{names[file]}{ends[file]}".lower() in taken:
            count += 1
            names[file] = f"{name}_{count}"
        names[file] += ends[file]
        taken.add(names[file].lower())
    return names
