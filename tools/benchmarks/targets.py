"""What the project set out to reach, and whether this run reached it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Optional

from .session import Result
from .workload import FORWARD, TRAIN

Size = tuple[int, int]
SMALL, LARGE, HUGE = (512, 512), (800, 1333), (2048, 2048)

# case, entry, what it is compared with, size, mode, how many times as fast, how many times less memory
COMPARISONS_ON_CPU = (
    ("ST N=4", "ours", ("ST N=4", "textbook"), SMALL, TRAIN, 1.8, 30),
    ("GT Euclidean N=4", "ours", ("GT Euclidean N=4", "textbook"), SMALL, TRAIN, 2, 30),
    # which is embedded grounding with four parts too
    ("GT Euclidean N=4", "ours", ("ST N=4", "textbook"), SMALL, TRAIN, 1 / 0.85, 6),
    ("GT Euclidean N=1", "ours", ("GT Euclidean N=1", "textbook"), SMALL, TRAIN, 2, 30),
    ("GT Euclidean N=1", "ours", ("GT embedded N=1", "textbook"), SMALL, TRAIN, 1 / 0.85, 6),
    ("GT dot", "ours", ("GT dot", "textbook"), SMALL, TRAIN, 10, 8),
    ("LGT 5x5", "ours", ("LGT 5x5", "textbook"), LARGE, FORWARD, 5, 6),
    ("neck", "FPT exact", ("neck", "FPT textbook"), SMALL, TRAIN, 1.6, 4),
)
COMPARISONS_ON_GPU = (("Mask R-CNN R50", "FPT budget", ("Mask R-CNN R50", "FPN"), LARGE, TRAIN, 0.7, 1 / 1.5),)


@dataclass(frozen=True)
class Verdict:
    """A target and what this run says of it: None where it did not measure it."""

    target: str
    asked: str
    measured: Optional[float]
    reached: Optional[bool]


class Missing(LookupError):
    """This run has no such result."""


class Results:
    """The results of a run by what they are of."""

    def __init__(self, results: list[Result]) -> None:
        self._results = {(r.case, r.entry, (r.height, r.width), r.mode): r for r in results}

    def seconds(self, case: str, entry: str, size: Size, mode: str) -> float:
        return self._one(case, entry, size, mode, "seconds")

    def peak_mib(self, case: str, entry: str, size: Size, mode: str) -> float:
        return self._one(case, entry, size, mode, "peak_mib")

    def _one(self, case: str, entry: str, size: Size, mode: str, quantity: str) -> float:
        value = getattr(self._results.get((case, entry, size, mode)), quantity, None)
        if value is None:
            raise Missing
        return value

    def over_trunk_and_fpn(self, neck: str) -> float:
        """Forward time of a neck over that of the trunk and plain FPN."""
        seconds = partial(self.seconds, "neck", size=LARGE, mode=FORWARD)
        return seconds(neck) / (seconds("R50 trunk") + seconds("FPN"))

    def spread_per_pixel(self, neck: str) -> float:
        """Highest over lowest forward time per pixel, from 512 x 512 to 2048 x 2048."""
        for size in (SMALL, HUGE):
            self.seconds("neck", neck, size, FORWARD)
        times = [
            r.seconds / r.area
            for r in self._results.values()
            if (r.case, r.entry, r.mode) == ("neck", neck, FORWARD) and r.seconds and r.height >= SMALL[0]
        ]
        return max(times) / min(times)


def judge(results: list[Result], device: str) -> list[Verdict]:
    """Every target for this device."""
    known = Results(results)
    verdicts = []
    for case, entry, other, size, mode, faster, less in COMPARISONS_ON_GPU if device == "cuda" else COMPARISONS_ON_CPU:
        where = f"{case}, {entry} against {' '.join(other)}, {size[0]} x {size[1]}, {mode}"
        for text, quantity, bound in (("speed", known.seconds, faster), ("less memory", known.peak_mib, less)):
            ratio = partial(_ratio, quantity, other, (case, entry), size, mode)
            verdicts.append(_verdict(f"{where}: {text}, times", bound, ratio, at_least=True))
    return verdicts if device == "cuda" else verdicts + _verdicts_on_networks(known)


def _verdicts_on_networks(known: Results) -> list[Verdict]:
    peak = partial(known.peak_mib, "neck", "FPT exact", LARGE)
    return [
        _verdict("FPT exact neck, 800 x 1333, forward: MiB", 900, partial(peak, FORWARD)),
        _verdict("FPT exact neck, 800 x 1333, training step: MiB", 2.3 * 1024, partial(peak, TRAIN)),
        *(
            _verdict(f"{neck} neck, 800 x 1333, forward: time over trunk + FPN", bound, over)
            for neck, bound in (("FPT budget", 1.6), ("FPT budget, dot", 1.6), ("FPT light", 1.0))
            for over in [partial(known.over_trunk_and_fpn, neck)]
        ),
        _verdict(
            "UFP + FPT, R101, 512 x 1024, forward: MiB",
            2 * 1024,
            partial(known.peak_mib, "UFP R101", "UFP + FPT", (512, 1024), FORWARD),
        ),
        _verdict(
            "FPT budget neck, 512 x 512 to 2048 x 2048, forward: spread of the time per pixel",
            1.15,
            partial(known.spread_per_pixel, "FPT budget"),
        ),
    ]


def _ratio(
    quantity: Callable[..., float], over: tuple[str, str], under: tuple[str, str], size: Size, mode: str
) -> float:
    return quantity(*over, size, mode) / quantity(*under, size, mode)


def _verdict(target: str, bound: float, measure: Callable[[], float], *, at_least: bool = False) -> Verdict:
    asked = f"{'at least' if at_least else 'at most'} {bound:.4g}"
    try:
        measured = measure()
    except Missing:
        return Verdict(target, asked, None, None)
    return Verdict(target, asked, measured, measured >= bound if at_least else measured <= bound)
