"""LimitRange: what a container asks for when it does not say, and how much or little a pod, a container or a claim may ask for.

The figures are worked out in `limits`, loaded when there is a LimitRange.
"""

from __future__ import annotations

from typing import Any

from controlplane.admission.base import Lookup, Request


class LimitRanger:
    async def mutate(self, request: Request, lookup: Lookup) -> None:
        if not _is_pod(request):
            return
        for limit_range in await _ranges(request, lookup):
            from controlplane.admission import limits

            limits.fill(limit_range, request.obj)

    async def validate(self, request: Request, lookup: Lookup) -> None:
        if not _is_pod(request) and not _is_claim(request):
            return
        for limit_range in await _ranges(request, lookup):
            from controlplane.admission import limits

            check = limits.pod if _is_pod(request) else limits.claim
            wrong = check(limit_range, request.obj)
            if wrong:
                raise request.forbid(wrong[0] if len(wrong) == 1 else f"[{', '.join(wrong)}]")


def _is_pod(request: Request) -> bool:
    """A pod's containers stay as they were made, but for a resize."""
    if request.kind.kind != "Pod" or request.kind.group:
        return False
    created = request.operation == "CREATE" and not request.subresource
    return created or (request.operation == "UPDATE" and request.subresource == "resize")


def _is_claim(request: Request) -> bool:
    kind = request.kind
    return kind.kind == "PersistentVolumeClaim" and request.operation != "DELETE" and not request.subresource


async def _ranges(request: Request, lookup: Lookup) -> list[Any]:
    if not await lookup.present("", "limitranges"):
        return []
    return [found.message for found in await lookup.within("v1", "LimitRange", request.namespace)]
