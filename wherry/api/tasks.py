"""Structured tasks in a fixed order. Owns `TaskGroup`, which everyone uses in place of `asyncio.TaskGroup`, and `stop`.

The standard group keeps its tasks in a set, so it cancels them in the order of their addresses, and two runs of one
simulation differ. This one starts and cancels its children in the order of their creation. Errors are as in the standard
group: the first failure cancels the other children and the body, and everything raised comes out as one
`BaseExceptionGroup`; KeyboardInterrupt and SystemExit come out as they are; a cancellation from outside reaches the
children and is raised again when they have ended.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

from wherry.api.supervise import keep_running

log = logging.getLogger(__name__)

T = TypeVar("T")


async def stop(*tasks: asyncio.Task[Any]) -> None:
    """Cancels them, in this order, and waits until they have ended: for helpers of one call that end with it. What one of them
    has ended with is logged, since nobody else asks."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("%s failed", task.get_name(), exc_info=error)


class TaskGroup:
    """`async with TaskGroup() as group: group.create_task(...)`; leaving the block waits for all children.

    Invariants: `_tasks` holds exactly the children that have not ended, in order of creation; once `_aborting` is set,
    each of them has been cancelled once and no new one is taken.
    """

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._errors: list[BaseException] = []
        self._fatal: BaseException | None = None  # KeyboardInterrupt or SystemExit of a child
        self._parent: asyncio.Task[Any] | None = None
        self._cancelled_parent = False  # by us, to leave the body after a child failed
        self._entered = False
        self._exiting = False
        self._aborting = False
        self._all_done: asyncio.Future[None] | None = None

    async def __aenter__(self) -> TaskGroup:
        if self._entered:
            raise RuntimeError("a TaskGroup can be entered once only")
        self._entered = True
        self._parent = asyncio.current_task()
        if self._parent is None:
            raise RuntimeError("a TaskGroup needs a task that it belongs to")
        return self

    def create_task(
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[T]:
        """Starts a child. Raises RuntimeError (and closes `coro`) when the group is not open."""
        if not self._entered or self._aborting or (self._exiting and not self._tasks):
            coro.close()
            raise RuntimeError("the TaskGroup is not open: not entered yet, shutting down, or over")
        task = asyncio.get_running_loop().create_task(coro, name=name, context=context)
        self._tasks[task] = None
        task.add_done_callback(self._on_done)
        return task

    def keep(self, work: Callable[[], Awaitable[T]], *, name: str) -> asyncio.Task[T]:
        """Starts a child that no exception ends: it is logged, and `work` begins again after a back-off."""
        return self.create_task(keep_running(name, work), name=name)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._parent is not None
        self._exiting = True
        cancellation = error if isinstance(error, asyncio.CancelledError) else None
        if isinstance(error, KeyboardInterrupt | SystemExit):
            self._fatal = self._fatal or error
        if self._cancelled_parent and self._parent.uncancel() == 0:
            # The only request to cancel was our own, so the error group speaks for it.
            cancellation = None
        if error is not None and not self._aborting:
            self._abort()
        while self._tasks:
            self._all_done = asyncio.get_running_loop().create_future()
            try:
                await self._all_done
            except asyncio.CancelledError as cancelled:
                if not self._aborting:
                    # Cancelled from outside while waiting: children first, then it is passed on.
                    cancellation = cancelled
                    self._abort()
            self._all_done = None
        try:
            if self._fatal is not None:
                raise self._fatal
            if cancellation is not None and not self._errors:
                raise cancellation
            if error is not None and not isinstance(error, asyncio.CancelledError):
                self._errors.append(error)
            if self._errors:
                if self._parent.cancelling():
                    # Someone outside cancelled us as well: let it strike at the next await, since the group of errors
                    # takes the place of the CancelledError.
                    self._parent.uncancel()
                    self._parent.cancel()
                raise BaseExceptionGroup("unhandled errors in a TaskGroup", self._errors) from None
        finally:
            self._parent = None
            self._errors = []
            self._fatal = None

    def _abort(self) -> None:
        self._aborting = True
        for task in list(self._tasks):
            if not task.done():
                task.cancel()

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if self._all_done is not None and not self._tasks and not self._all_done.done():
            self._all_done.set_result(None)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        self._errors.append(error)
        if isinstance(error, KeyboardInterrupt | SystemExit) and self._fatal is None:
            self._fatal = error
        if self._parent is None or self._parent.done():
            # The group was left by force (its own task was destroyed): nobody else would tell.
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"{task!r} failed after its TaskGroup was left", "exception": error, "task": task}
            )
            return
        if not self._aborting and not self._cancelled_parent:
            self._abort()
            if not self._exiting:
                # The body is still running: break it off too.
                self._cancelled_parent = True
                self._parent.cancel()
