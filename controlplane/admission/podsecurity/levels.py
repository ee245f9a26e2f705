"""What the labels `pod-security.kubernetes.io/*` of a namespace say. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from wherry.api.errors import Cause

PREFIX = "pod-security.kubernetes.io/"
Level = Literal["privileged", "baseline", "restricted"]
LEVELS: tuple[Level, ...] = ("privileged", "baseline", "restricted")
LATEST = 10_000  # newer than any minor version
_VERSION = re.compile(r"v1\.(0|[1-9][0-9]{0,3})")


@dataclass(frozen=True, slots=True)
class LevelVersion:
    """`minor`: of which Kubernetes' standards; LATEST: of the newest."""

    level: Level = "privileged"
    minor: int = LATEST

    def __str__(self) -> str:
        return f"{self.level}:{'latest' if self.minor == LATEST else f'v1.{self.minor}'}"


@dataclass(frozen=True, slots=True)
class Policy:
    enforce: LevelVersion = field(default_factory=LevelVersion)
    audit: LevelVersion = field(default_factory=LevelVersion)
    warn: LevelVersion = field(default_factory=LevelVersion)


def concerned(labels: Mapping[str, str]) -> bool:
    """Whether there is any such label: without one everything is allowed."""
    return any(name.startswith(PREFIX) for name in labels)


def stricter(one: LevelVersion, other: LevelVersion) -> bool:
    return LEVELS.index(one.level) > LEVELS.index(other.level)


def parse(labels: Mapping[str, str]) -> tuple[Policy, list[Cause]]:
    """What is wrong is taken for the strictest level where pods are refused, for none where they are only spoken of."""
    causes: list[Cause] = []
    found: dict[str, LevelVersion] = {}
    for mode in ("enforce", "audit", "warn"):
        one = LevelVersion()
        level = labels.get(PREFIX + mode)
        if level is not None:
            if level in LEVELS:
                one = replace(one, level=level)
            else:
                causes.append(_wrong(mode, level, f"must be one of {', '.join(LEVELS)}"))
                one = replace(one, level="restricted" if mode == "enforce" else "privileged")
        version = labels.get(f"{PREFIX}{mode}-version")
        if version is not None and version != "latest":
            match = _VERSION.fullmatch(version)
            if match is None:
                causes.append(_wrong(f"{mode}-version", version, 'must be "latest" or "v1.x"'))
            else:
                one = replace(one, minor=int(match[1]))
        found[mode] = one
    if PREFIX + "enforce" in labels:
        for mode in ("audit", "warn"):
            if PREFIX + mode not in labels and stricter(found["enforce"], found[mode]):
                found[mode] = found["enforce"]
    return Policy(found["enforce"], found["audit"], found["warn"]), causes


def _wrong(label: str, value: str, detail: str) -> Cause:
    from controlplane.registry import violations

    return violations.invalid(f"metadata.labels[{PREFIX}{label}]", value, detail)
