"""Config files that are something else, that are wrong, or that were made to run code."""

from __future__ import annotations

from collections.abc import Callable

from tests.abuse.cases import Case, Place

LAUGHS = "".join(f"k{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'ha'] * 10)}]\n" for i in range(9))
MERGES = "".join(f"k{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 9))
SHELL = '["touch PWNED"]'
# Text of the file -> a part of the answer.
WRONG = {
    "": "does not consist of keys and values",
    "[1, 2]": "does not consist of keys and values",
    "3": "does not consist of keys and values",
    "hello": "does not consist of keys and values",
    "MODEL: null": "MODEL is a section, set one of its keys",
    "MODEL: [1]": "MODEL is a section, set one of its keys",
    "1: 2": "there is no key 1",
    "[a]: 2": "is not valid YAML",
    "MODEL: [": "is not valid YAML",
    "MODEL:\n\tDEVICE: cpu": "is not valid YAML",
    "SEED: 1\n---\nSEED: 2": "is not valid YAML",
    "SEED: 1\nSEED: 2": "has the key SEED twice",
    "SOLVER: {MAX_ITER: 1, MAX_ITER: 2}": "has the key MAX_ITER twice",
    "SEED: 2001-01-01": "SEED is the date 2001-01-01; allowed: a whole number",
    "SEED: 2001-99-99": "has 2001-99-99 in line 1, which cannot be read",
    f"SEED: {'9' * 5000}": "which cannot be read (Exceeds the limit",
    'OUTPUT_DIR: "\\ud800"': "OUTPUT_DIR is '\\ud800'; allowed: the name of a folder",
    "VERSION: 3": "has VERSION 3; allowed: 2",
    "VERSION: two": "has VERSION 'two'; allowed: 2",
    "VERSION: true": "has VERSION True; allowed: 2",
    "VERSION: 1\nMODEL: {RPN: 3}": "as it says VERSION 1, is wrong: MODEL.RPN has a value of another type",
    "VERSION: null": "has VERSION None; allowed: 2",
    "_BASE_: config.yaml": "is based on itself by _BASE_",
    "_BASE_: [config.yaml]": "is based on itself by _BASE_",
    "_BASE_: 3": "has a _BASE_ that is not the path of a file",
    "_BASE_: null": "has a _BASE_ that is not the path of a file",
    "_BASE_: gone.yaml": "gone.yaml",
    "_BASE_: .": "is not a file",
    "_BASE_: /dev/zero": "/dev/zero is not a file",
    "_BASE_: http://127.0.0.1:1/a/../../b.yaml": "is an address with '..' in it",
    "MODEL: &a [*a]": "has an alias within what it stands for",
    "MODEL: &a {DEVICE: *a}": "has an alias within what it stands for",
    LAUGHS: "has more than 100000 values, aliases counted",
    f"k0: &a0 {{a: b}}\n{MERGES}": "has more than 100000 values, aliases counted",
    "[" * 2000: "nested too deeply",
    "x" * 1_000_001: "is larger than a config can be",
}
NOT_TEXT = {
    "UTF-16": ("SEED: 1".encode("utf-16"), "is not text in UTF-8"),
    "zeros": (bytes(100), "is not valid YAML"),
    "a zip": (b"PK\x03\x04\xff", "is not text in UTF-8"),
}
# Each would leave a file PWNED, were its tag obeyed.
HOSTILE = (
    f"OUTPUT_DIR: !!python/object/apply:os.system {SHELL}",
    f"OUTPUT_DIR: !!python/object/apply:posix.system {SHELL}",
    f"OUTPUT_DIR: !!python/object/new:os.system {SHELL}",
    f"OUTPUT_DIR: !<tag:yaml.org,2002:python/object/apply:os.system> {SHELL}",
    f"%TAG ! tag:yaml.org,2002:python/\n---\nOUTPUT_DIR: !object/apply:os.system {SHELL}",
    f"? !!python/object/apply:os.system {SHELL}\n: 1",
    f"? [!!python/object/apply:os.system {SHELL}]\n: 1",
    f"_BASE_: !!python/object/apply:os.system {SHELL}",
    f"SOLVER: {{STEPS: [1, !!python/object/apply:os.system {SHELL}]}}",
    f"MODEL: &a {{<<: !!python/object/apply:os.system {SHELL}}}",
    "OUTPUT_DIR: !!python/object/apply:subprocess.check_output [[touch, PWNED]]",
    "OUTPUT_DIR: !!python/object/apply:subprocess.Popen [[touch, PWNED]]",
    "OUTPUT_DIR: !!python/object/apply:eval [\"open('PWNED', 'w')\"]",
    "OUTPUT_DIR: !!python/object/apply:exec [\"open('PWNED', 'w')\"]",
    "OUTPUT_DIR: !!python/object/apply:open [PWNED, w]",
    "OUTPUT_DIR: !!python/object/apply:pathlib.Path.touch [PWNED]",
    "OUTPUT_DIR: !!python/object/apply:os.mkdir [PWNED]",
    "OUTPUT_DIR: !!python/object/apply:yaml.unsafe_load [\"!!python/object/apply:os.mkdir ['PWNED']\"]",
    "OUTPUT_DIR: !!python/object:antigravity.x {}",
    "OUTPUT_DIR: !!python/name:os.system",
    "OUTPUT_DIR: !!python/module:antigravity",
    "OUTPUT_DIR: !custom [PWNED]",
)


def written(text: str | bytes) -> Callable[[Place], None]:
    def spoil(place: Place) -> None:
        place.config.write_bytes(text if isinstance(text, bytes) else text.encode())

    return spoil


def in_its_place(place: Place) -> None:
    place.config.unlink()
    place.config.mkdir()


def in_the_base(text: str) -> Callable[[Place], None]:
    def spoil(place: Place) -> None:
        (place.root / "base.yaml").write_text(text)
        place.config.write_text("_BASE_: base.yaml\n")

    return spoil


CASES = (
    Case("config: a folder", in_its_place, "is a folder: give one of the .yaml files in it"),
    *(Case(f"config: {text[:40]!r}", written(text), says) for text, says in WRONG.items()),
    *(Case(f"config: {name}", written(content), says) for name, (content, says) in NOT_TEXT.items()),
    *(Case(f"config: {text[:70]!r}", written(text), "and tags can run code") for text in HOSTILE),
    *(Case(f"base of a config: {text[:70]!r}", in_the_base(text), "and tags can run code") for text in HOSTILE[:3]),
)
