"""Which images to remove when the disk fills up. Pure; called by `kubelet.housekeeping`. Thresholds are the kubelet's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from kubelet.runtime.base import Image

HIGH, LOW = 0.85, 0.80  # of the disk: begin above the one, stop below the other
MIN_AGE_S = 120.0


def unused(
    images: Sequence[Image], used_ids: Collection[str], last_used: Mapping[str, float], now: float
) -> list[Image]:
    """Longest unused first. Pinned images and those seen for less than MIN_AGE_S stay."""
    free = [
        image
        for image in images
        if not image.pinned and image.id not in used_ids and now - last_used.get(image.id, now) >= MIN_AGE_S
    ]
    return sorted(free, key=lambda image: (last_used.get(image.id, 0.0), image.id))


def bytes_to_free(capacity_bytes: int, available_bytes: int) -> int:
    """0 while the disk is less than HIGH full."""
    used = capacity_bytes - available_bytes
    if capacity_bytes <= 0 or used < HIGH * capacity_bytes:
        return 0
    return int(used - LOW * capacity_bytes)


def choose(candidates: Sequence[Image], wanted_bytes: int) -> list[Image]:
    chosen: list[Image] = []
    freed = 0
    for image in candidates:
        if freed >= wanted_bytes:
            break
        chosen.append(image)
        freed += image.size_bytes
    return chosen
