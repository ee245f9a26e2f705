"""Tables of flow schemas and priority levels."""

from __future__ import annotations

from typing import Any

from controlplane.registry.strategy import Column
from controlplane.registry.tables.common import NONE, age_column, name_column


def _distinguisher(obj: Any, now: float) -> str:
    return str(obj.spec.distinguisher_method.type) if obj.spec.HasField("distinguisher_method") else NONE


def _dangling(obj: Any, now: float) -> str:
    return next((str(item.status) for item in obj.status.conditions if item.type == "Dangling"), "?")


FLOW_SCHEMAS = (
    name_column(),
    Column("PriorityLevel", lambda obj, now: str(obj.spec.priority_level_configuration.name)),
    Column("MatchingPrecedence", lambda obj, now: int(obj.spec.matching_precedence)),
    Column("DistinguisherMethod", _distinguisher),
    age_column(),
    Column("MissingPL", _dangling),
)


def _shares(obj: Any, now: float) -> str | int:
    return int(obj.spec.limited.nominal_concurrency_shares) if obj.spec.HasField("limited") else NONE


def _queuing(field: str) -> Any:
    def cell(obj: Any, now: float) -> str | int:
        response = obj.spec.limited.limit_response
        return int(getattr(response.queuing, field)) if response.HasField("queuing") else NONE

    return cell


PRIORITY_LEVELS = (
    name_column(),
    Column("Type", lambda obj, now: str(obj.spec.type)),
    Column("NominalConcurrencyShares", _shares),
    Column("Queues", _queuing("queues")),
    Column("HandSize", _queuing("hand_size")),
    Column("QueueLengthLimit", _queuing("queue_length_limit")),
    age_column(),
)
