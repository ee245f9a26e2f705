"""Follows each request through its stages and hands the events to the sink. Made by `wherry server`; asked by both transports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.audit import events
from controlplane.audit.events import Request
from controlplane.audit.policy import Decision, Policy, parse
from controlplane.audit.sink import FileOptions, Sink
from wherry.api.context import Env


@dataclass(frozen=True, slots=True)
class Options:
    policy: str  # the text of the file
    file: FileOptions


class Auditor:
    def __init__(self, options: Options, env: Env) -> None:
        """Raises BadPolicy."""
        self._policy: Policy = parse(options.policy)
        self._env = env
        self.sink = Sink(options.file, env)

    def now(self) -> float:
        return self._env.now()

    async def receive(self, request: Request, body: Callable[[], Any]) -> Record | None:
        """None: nothing is written of it. `body` gives what the client sent, as JSON, once it has been read."""
        decision = self._policy.decide(request.subject)
        if decision.level == "None":
            return None
        record = Record(self, request, decision, body)
        await record.write("RequestReceived")
        return record


class Record:
    """One request. `started` when an answer that goes on for a while begins, `complete` at its end."""

    def __init__(self, auditor: Auditor, request: Request, decision: Decision, body: Callable[[], Any]) -> None:
        self._auditor = auditor
        self._request = request
        self._decision = decision
        self._body = body

    @property
    def wants_response(self) -> bool:
        return self._decision.level == "RequestResponse"

    async def write(self, stage: str, **facts: Any) -> None:
        if stage not in self._decision.omit_stages:
            await self._auditor.sink.write(self._event(stage, **facts))

    def started(self, code: int, annotations: Mapping[str, str]) -> None:
        """From where nothing can be waited for."""
        if "ResponseStarted" not in self._decision.omit_stages:
            line = self._event("ResponseStarted", code=code, annotations=annotations, request_object=self._sent())
            self._auditor.sink.post(line)

    async def complete(
        self,
        code: int,
        annotations: Mapping[str, str],
        *,
        status: Mapping[str, Any] | None = None,
        response: Any = None,
    ) -> None:
        if self._decision.omit_managed_fields:
            response = events.without_managed_fields(response)
        await self.write(
            "ResponseComplete",
            code=code,
            status=status,
            annotations=annotations,
            request_object=self._sent(),
            response_object=response if self.wants_response else None,
        )

    def _sent(self) -> Any:
        if self._decision.level not in ("Request", "RequestResponse"):
            return None
        body = self._body()
        return events.without_managed_fields(body) if self._decision.omit_managed_fields else body

    def _event(self, stage: str, **facts: Any) -> bytes:
        return events.event(self._request, self._decision.level, stage, self._auditor.now(), **facts)
