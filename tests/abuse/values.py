"""Wrong values of keys, ours and Detectron2's, and of command-line options."""

from __future__ import annotations

from tests.abuse.cases import Case

CASES = (Case("a batch of none", lambda place: ["SOLVER.IMS_PER_BATCH", 0], "SOLVER.IMS_PER_BATCH is 0"),)
