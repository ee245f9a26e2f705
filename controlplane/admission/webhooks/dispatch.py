"""Puts a request before the hooks that it concerns. Made by `chain` when there is a configuration.

Mutating hooks are asked one after the other, each with what the ones before made of the object; validating hooks all at once,
and the first refusal in their order counts. Every question has its hook's time-out, and all questions of the process together a
limit.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from controlplane.admission import attributes, matching
from controlplane.admission.attributes import View
from controlplane.admission.base import Lookup, Request
from controlplane.admission.webhooks import review, targets
from controlplane.admission.webhooks.base import CallFailed, Transport
from controlplane.admission.webhooks.review import Answer
from controlplane.admission.webhooks.select import Hook, Hooks, concerned
from wherry.api import patch
from wherry.api.context import Env
from wherry.api.errors import APIError, BadRequest, Cause, InternalError

log = logging.getLogger(__name__)

_V1 = "admissionregistration.k8s.io/v1"
_MAX_CALLS = 100  # under way at a time; further ones wait within their time-out
_MAX_ANNOTATIONS = 64


class Dispatcher:
    def __init__(self, lookup: Lookup, env: Env, transport: Transport) -> None:
        self._lookup = lookup
        self._env = env
        self._transport = transport
        self._mutating = Hooks()
        self._validating = Hooks()
        self._calls = asyncio.Semaphore(_MAX_CALLS)

    async def mutate(self, request: Request, seen: dict[str, bytes]) -> bool:
        """Whether a hook changed the object. `seen`: what each hook that was asked has seen last; when it is not empty, only
        those are asked that want to be, again, and have not seen the object as it is now."""
        again = bool(seen)
        changed = False
        for hook, version in await self._concerned(request, "MutatingWebhookConfiguration", self._mutating):
            if again and (hook.message.reinvocation_policy != "IfNeeded" or seen.get(hook.key) == _bytes(request.obj)):
                continue
            view = attributes.view(request, self._env.uuid(), version)
            answer = await self._ask(hook, request, view, mutating=True)
            if answer is not None and answer.patch:
                changed = _apply(hook, request, view, answer.patch) or changed
            seen[hook.key] = _bytes(request.obj)
        return changed

    async def validate(self, request: Request) -> None:
        hooks = await self._concerned(request, "ValidatingWebhookConfiguration", self._validating)
        if not hooks:
            return
        views = {version: attributes.view(request, "", version) for _, version in hooks}
        tasks = [
            asyncio.ensure_future(self._ask(hook, request, _with_uid(views[version], self._env.uuid()), mutating=False))
            for hook, version in hooks
        ]
        try:
            await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
        errors = [error for error in (task.exception() for task in tasks) if error is not None]
        if errors:
            raise errors[0]

    async def _concerned(self, request: Request, kind: str, hooks: Hooks) -> list[tuple[Hook, str]]:
        """Each with the version in which it asks for the object."""
        configurations = await self._lookup.all(_V1, kind)
        if not configurations or matching.exempt(request):
            return []
        namespace = None
        if request.kind.namespaced:
            namespace = await self._lookup.find("v1", "Namespace", "", request.namespace)
        served = self._lookup.versions(request.kind.group, request.kind.plural)
        found: list[tuple[Hook, str]] = []
        plain_namespace = None
        for hook in hooks.of(configurations):
            version = concerned(hook, request, namespace, served)
            if version is None:
                continue
            if hook.conditions is not None:
                plain_namespace = plain_namespace or matching.plain(namespace)
                if not self._holds(hook, request, attributes.view(request, "", version), plain_namespace):
                    continue
            found.append((hook, version))
        return found

    def _holds(self, hook: Hook, request: Request, view: View, namespace: dict[str, Any] | None) -> bool:
        from controlplane.admission.expressions import ConditionError, values

        assert hook.conditions is not None
        try:
            return hook.conditions.hold(values(view, namespace))
        except ConditionError as error:
            if hook.ignores_failure:
                log.warning("the conditions of webhook %s fail, so it is not asked: %s", hook.key, error)
                return False
            raise request.forbid(str(error)) from error

    async def _ask(self, hook: Hook, request: Request, view: View, *, mutating: bool) -> Answer | None:
        """None: there was no answer, and the hook does not insist. Raises APIError for a refusal."""
        if request.dry_run and hook.message.side_effects not in ("None", "NoneOnDryRun"):
            raise BadRequest(f'admission webhook "{hook.name}" does not support dry run')
        timeout_s = int(hook.message.timeout_seconds or 10)
        try:
            try:
                async with asyncio.timeout(timeout_s), self._calls:
                    target = await targets.resolve(hook.message.client_config, timeout_s, self._lookup)
                    body = await self._transport.post(target, review.question(view), timeout_s)
            except TimeoutError as error:
                raise CallFailed("context deadline exceeded") from error
            answer = review.answer(body, view.request["uid"], mutating=mutating)
        except CallFailed as error:
            self._failed(hook, request, f"failed to call webhook: {error}", error)
            return None
        for text in answer.warnings:
            request.warnings.append(text)
        for key, text in sorted(answer.annotations.items())[:_MAX_ANNOTATIONS]:
            request.annotations[f"{hook.name}/{key}"] = text
        if not answer.allowed:
            raise review.refusal(hook.name, answer.status)
        return answer

    def _failed(self, hook: Hook, request: Request, detail: str, error: Exception) -> None:
        text = f'failed calling webhook "{hook.name}": {detail}'
        if hook.ignores_failure:
            log.warning("%s; ignored, as it asks for", text)
            request.annotations[f"failed-open.{hook.name}"] = hook.configuration
            return
        raise InternalError(f"Internal error occurred: {text}", causes=[Cause("", text)]) from error


def _apply(hook: Hook, request: Request, view: View, operations: Sequence[Any]) -> bool:
    """Changes the object as the hook says. Raises InternalError for a patch that does not fit, and where there is none."""
    if view.object is None:
        text = (
            f'admission webhook "{hook.name}" attempted to modify the object, which is not supported for this operation'
        )
        raise InternalError(f"Internal error occurred: {text}", causes=[Cause("", text)])
    try:
        result = patch.apply_json_patch(view.object, list(operations))
        if not isinstance(result, dict):
            raise BadRequest("the patched object is no object")
        return matching.accept(request, result)
    except (APIError, ValueError, TypeError, AttributeError) as error:
        text = f'failed calling webhook "{hook.name}": the patch does not fit the object: {error}'
        raise InternalError(f"Internal error occurred: {text}", causes=[Cause("", text)]) from error


def _with_uid(view: View, uid: str) -> View:
    return View({**view.request, "uid": uid}, view.object, view.old)


def _bytes(obj: Any | None) -> bytes:
    return b"" if obj is None else bytes(obj.SerializeToString(deterministic=True))
