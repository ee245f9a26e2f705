"""Virtual time: an asyncio event loop on which nothing ever waits.

When no callback is ready the clock jumps to the next timer, so hours of a cluster's life pass in seconds, and the same
program does the same thing every time: one thread, no sockets, executors run inline, tasks are cancelled in the order
in which they were made, and the garbage collector (which would finalise generators at moments that depend on what else
the process has imported) runs at fixed steps only. When nothing is ready and there is no timer either, the loop raises
`Deadlock` with the place where each task waits.

Called by `wherry.testing.plugin` (tests written as coroutines), `wherry.testing.cluster` (the simulated cluster) and by
tests that want a whole run inside one function (`run_virtual`).
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import heapq
import random
import threading
import traceback
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import CoroutineType, FrameType, GeneratorType
from typing import Any, TypeVar, TypeVarTuple, cast

from wherry.api.context import Env

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

EPOCH = 1_893_456_000.0  # 2030-01-01T00:00:00Z: the wall clock when the loop's clock shows START
START = 1_000.0  # not 0, so that a loop time mistaken for a duration shows
LIVELOCK_STEPS = 200_000  # iterations without the clock moving; the largest simulations need a few thousand
COLLECT_EVERY_STEPS = 20_000


class Deadlock(RuntimeError):
    """Nothing can ever happen again: no callback is ready, no timer is set, and the awaited result is not there."""


class Livelock(RuntimeError):
    """The clock has stopped: callbacks keep each other busy without end."""


class TimeLimit(RuntimeError):
    """The run went on for longer, in virtual seconds, than it was allowed."""


class _Selector:
    """Stands where the loop asks the operating system to wait, and moves the clock instead."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = weakref.ref(loop)

    def select(self, timeout_s: float | None) -> list[Any]:
        loop = self._loop()
        if loop is not None:
            loop.pass_time(timeout_s)
        return []

    def close(self) -> None: ...


class _Timer(asyncio.TimerHandle):
    """Timers of one moment fire in the order in which they were set; asyncio's own heap leaves that open."""

    __slots__ = ("number",)
    number: int
    _scheduled: bool

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, _Timer):
            return NotImplemented
        return (self.when(), self.number) < (other.when(), other.number)


class VirtualLoop(asyncio.BaseEventLoop):
    """Invariant: `time()` changes only in `pass_time`, and never backwards."""

    # What BaseEventLoop keeps, and its stubs do not show.
    _scheduled: list[asyncio.TimerHandle]
    _clock_resolution: float
    _check_closed: Callable[[], None]

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._selector = _Selector(self)
        self._clock_resolution = 1e-9
        self._time = START
        self._limit = float("inf")
        self._steps = 0
        self._steps_at_this_time = 0
        self._sequence = 0
        self._timers = 0
        self._living: weakref.WeakValueDictionary[int, asyncio.Task[Any]] = weakref.WeakValueDictionary()
        self._thread = threading.get_ident()
        self.seed = seed
        self.env = Env(now=self.wall, rng=random.Random(seed))

    # -- the clock

    def time(self) -> float:
        return self._time

    def wall(self) -> float:
        """Unix time, for `Env.now`."""
        return EPOCH + (self._time - START)

    def limit_time(self, limit_s: float) -> None:
        """From now on; `TimeLimit` is raised out of the run when the clock would pass it."""
        self._limit = self._time + limit_s

    def pass_time(self, timeout_s: float | None) -> None:
        """Called once per iteration, before the due timers run."""
        self._steps += 1
        if self._steps % COLLECT_EVERY_STEPS == 0 and not gc.isenabled():
            gc.collect(1)
        if timeout_s is None:
            raise Deadlock(
                f"nothing is ready and no timer is set at {self._moment()}; waiting:\n{self.describe_tasks()}"
            )
        if timeout_s <= 0:
            self._steps_at_this_time += 1
            if self._steps_at_this_time > LIVELOCK_STEPS:
                raise Livelock(
                    f"{LIVELOCK_STEPS} iterations at {self._moment()} without time passing:\n{self.describe_tasks()}"
                )
            return
        # The exact value of the timer: adding the difference could fall short by a rounding error.
        when = self._scheduled[0].when()
        if when > self._limit:
            raise TimeLimit(f"still running at {self._moment()}, the limit:\n{self.describe_tasks()}")
        self._time = max(self._time, when)
        self._steps_at_this_time = 0

    def _moment(self) -> str:
        return f"{self._time - START:.3f} s of virtual time"

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        self._check_closed()
        self._timers += 1
        timer = _Timer(when, callback, args, self, context)
        timer.number = self._timers
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True
        return timer

    # -- tasks, in the order in which they were made

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        # asyncio's default names count over the whole process, which would differ from run to run.
        self._sequence += 1
        task: asyncio.Task[T] = super().create_task(
            cast("Coroutine[Any, Any, T]", coro), name=name or f"task-{self._sequence}", context=context
        )
        self._living[self._sequence] = task
        return task

    def tasks(self) -> list[asyncio.Task[Any]]:
        """The unfinished ones, oldest first."""
        return [task for _, task in sorted(self._living.items()) if not task.done()]

    def describe_tasks(self) -> str:
        return "\n".join(f"  {task.get_name()}: {_where(task)}" for task in self.tasks()) or "  (no task)"

    # -- what real loops give to threads and to the operating system

    def run_in_executor(  # type: ignore[override]  # the stubs want a Future of the loop's own TypeVar
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Runs `func` at once, in this thread."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        if threading.get_ident() != self._thread:
            raise RuntimeError(f"a thread called {callback!r} on the virtual loop: run it inline there")
        return self.call_soon(callback, *args, context=context)

    def _process_events(self, event_list: list[Any]) -> None: ...

    def _write_to_self(self) -> None: ...

    # -- whole runs

    def finish(self) -> None:
        """Cancels what still runs, oldest first, round after round until nothing is left, and closes the loop."""
        if self.is_closed():
            return
        self._limit, self._steps_at_this_time = float("inf"), 0
        try:
            for _ in range(100):
                leftovers = self.tasks()
                if not leftovers:
                    break
                for task in leftovers:
                    task.cancel()
                self.run_until_complete(_settle(leftovers))
            self.run_until_complete(self.shutdown_asyncgens())
        finally:
            self.close()


async def _settle(tasks: list[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


def _where(task: asyncio.Task[Any]) -> str:
    """The chain of awaits of a task, outermost first."""
    chain: list[str] = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame: FrameType | None
        if isinstance(awaited, CoroutineType):
            frame, awaited = awaited.cr_frame, awaited.cr_await
        elif isinstance(awaited, GeneratorType):
            frame, awaited = awaited.gi_frame, awaited.gi_yieldfrom
        elif hasattr(awaited, "ag_frame"):
            frame, awaited = awaited.ag_frame, awaited.ag_await
        else:
            if not isinstance(awaited, type):
                chain.append(type(awaited).__name__)
            break
        if frame is not None:
            summary = traceback.extract_stack(frame, limit=1)[0]
            chain.append(f"{summary.filename.rpartition('/')[2]}:{summary.lineno} {summary.name}")
    return " > ".join(chain) or "not started"


def run_virtual(
    main: Coroutine[Any, Any, T] | Callable[[Env], Awaitable[T]], seed: int = 0, *, limit_s: float = 30 * 86_400.0
) -> T:
    """Runs `main` (a coroutine, or a function of the run's `Env` that makes one) to its end on a loop of its own and
    returns its result. `limit_s` is in virtual seconds. What is still running afterwards is cancelled."""
    loop = VirtualLoop(seed)
    loop.limit_time(limit_s)
    collecting = gc.isenabled()
    gc.disable()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(_main(main, loop.env))
    finally:
        try:
            loop.finish()
        finally:
            asyncio.set_event_loop(None)
            if collecting:
                gc.enable()


async def _main(main: Coroutine[Any, Any, T] | Callable[[Env], Awaitable[T]], env: Env) -> T:
    return await (main(env) if callable(main) else main)


def virtual_loop() -> VirtualLoop:
    """The running loop, which must be a virtual one."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise RuntimeError(f"{type(loop).__name__} is running; this needs virtual time (wherry.testing.loop)")
    return loop


def virtual_env() -> Env:
    """The `Env` of the running virtual loop: its wall clock and its seeded random source."""
    return virtual_loop().env
