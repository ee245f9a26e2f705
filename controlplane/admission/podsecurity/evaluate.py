"""All checks of a level over one pod. Pure; called by `controlplane.admission.pod_security`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from controlplane.admission.podsecurity import baseline, restricted
from controlplane.admission.podsecurity.base import Violation
from controlplane.admission.podsecurity.levels import LevelVersion


def violations_of(wanted: LevelVersion, meta: Any, spec: Any) -> list[Violation]:
    if wanted.level == "privileged":
        return []
    further = baseline.OVERLAPPING if wanted.level == "baseline" else restricted.CHECKS
    found = []
    for versioned in (*baseline.CHECKS, *further):
        check = versioned.at(wanted.minor)
        violation = check(meta, spec) if check is not None else None
        if violation is not None:
            found.append(violation)
    return found


def details(found: Sequence[Violation]) -> str:
    return ", ".join(map(str, found))


def reasons(found: Sequence[Violation]) -> str:
    return ", ".join(violation.reason for violation in found)
