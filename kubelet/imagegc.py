"""Which images to remove when the disk fills up. Pure; called by `kubelet.housekeeping`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from kubelet.runtime.base import Image


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Shares of the disk: collection begins above `high` and stops below `low`. What has been there for less than `min_age_s`
    stays. The defaults are the kubelet's."""

    high: float = 0.85
    low: float = 0.80
    min_age_s: float = 120.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(
                f"image GC thresholds: low {self.low:.0%} and high {self.high:.0%}; want 0 <= low < high <= 100"
            )


DEFAULT = Thresholds()


def unused(
    images: Sequence[Image], used_ids: Collection[str], last_used: Mapping[str, float], now: float, min_age_s: float
) -> list[Image]:
    """Longest unused first. Pinned images and young ones stay."""
    free = [
        image
        for image in images
        if not image.pinned and image.id not in used_ids and now - last_used.get(image.id, now) >= min_age_s
    ]
    return sorted(free, key=lambda image: (last_used.get(image.id, 0.0), image.id))


def bytes_to_free(capacity_bytes: int, available_bytes: int, thresholds: Thresholds) -> int:
    """0 while the disk is less full than the high threshold. At 100 % nothing is ever collected."""
    used = capacity_bytes - available_bytes
    if capacity_bytes <= 0 or thresholds.high >= 1 or used < thresholds.high * capacity_bytes:
        return 0
    return int(used - thresholds.low * capacity_bytes)


def choose(candidates: Sequence[Image], wanted_bytes: int) -> list[Image]:
    chosen: list[Image] = []
    freed = 0
    for image in candidates:
        if freed >= wanted_bytes:
            break
        chosen.append(image)
        freed += image.size_bytes
    return chosen
