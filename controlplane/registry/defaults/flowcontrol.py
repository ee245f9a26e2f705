"""Defaults of FlowSchema and PriorityLevelConfiguration. Called by their strategies."""

from __future__ import annotations

from typing import Any

_PRECEDENCE = 1000
_SHARES = 30
_QUEUES, _HAND_SIZE, _QUEUE_LENGTH = 64, 8, 50


def flow_schema(obj: Any) -> None:
    if not obj.spec.matching_precedence:
        obj.spec.matching_precedence = _PRECEDENCE


def priority_level(obj: Any) -> None:
    spec = obj.spec
    if spec.type == "Exempt":
        for name in ("nominal_concurrency_shares", "lendable_percent"):
            if not spec.exempt.HasField(name):
                setattr(spec.exempt, name, 0)
    if not spec.HasField("limited"):
        return
    limited = spec.limited
    if not limited.HasField("nominal_concurrency_shares"):
        limited.nominal_concurrency_shares = _SHARES
    if not limited.HasField("lendable_percent"):
        limited.lendable_percent = 0
    if limited.limit_response.HasField("queuing"):
        queuing = limited.limit_response.queuing
        queuing.queues = queuing.queues or _QUEUES
        queuing.hand_size = queuing.hand_size or _HAND_SIZE
        queuing.queue_length_limit = queuing.queue_length_limit or _QUEUE_LENGTH
