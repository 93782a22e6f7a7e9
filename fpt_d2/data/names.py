"""Names for what is made of files, such as pictures of images, that never meet."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def distinct_names(files: Iterable[str]) -> dict[str, str]:
    """Name each file by its own name without suffix; where two would be alike, all with their folders.

    What is alike even then, ``a.jpg`` and ``a.png``, is numbered. Case is ignored, as some file systems do.
    """
    files = list(dict.fromkeys(files))
    names = {file: Path(file).stem for file in files}
    if len({name.lower() for name in names.values()}) < len(names):
        parents = {file: Path(os.path.abspath(file)).parent for file in files}
        common = os.path.commonpath(parents.values())
        names = {file: "_".join([*parents[file].relative_to(common).parts, Path(file).stem]) for file in files}
    taken: set[str] = set()
    for file, name in names.items():
        count = 1
        while names[file].lower() in taken:
            count += 1
            names[file] = f"{name}_{count}"
        taken.add(names[file].lower())
    return names
