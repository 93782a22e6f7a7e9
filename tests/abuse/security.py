"""Addresses that a stranger may have written. Configs are in :mod:`.configs`, weights in
``tests/checkpoint/test_hostile.py``."""

from __future__ import annotations

from tests.abuse.cases import Case

CASES = tuple(
    Case(f"weights at {address}", lambda _, a=address: ["MODEL.WEIGHTS", a], "have an address with '..' in it")
    for address in ("detectron2://../../x.pkl", "http://127.0.0.1:1/../x.pth", "catalog://../x", "package://../x")
)
