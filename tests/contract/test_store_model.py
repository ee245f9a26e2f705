"""The store against a plain model: hypothesis picks the operations, the model says what must be seen."""

from __future__ import annotations

import asyncio
import copy
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from controlplane.store.base import (
    BatchItem,
    Compacted,
    Compare,
    Delete,
    FutureRevision,
    Operation,
    Put,
    Store,
    Unavailable,
    Watch,
)
from controlplane.store.open import TLSFiles, open_store
from wherry.api.context import Env
from wherry.testing.etcd import EtcdCluster
from wherry.testing.require import require_binary

LIMIT_S = 10.0
KEYS = ["/a", "/a/b", "/ab", "/b", "/ü"]
PREFIXES = ["", "/", "/a", "/a/", "/b", "/c"]

keys = st.sampled_from(KEYS)
values = st.binary(max_size=4)


@dataclass
class Row:
    value: bytes
    create: int
    mod: int


@dataclass
class Model:
    """Every state that there has been, by revision."""

    head: int = 1
    compacted: int = 0
    states: dict[int, dict[str, Row]] = field(default_factory=lambda: {1: {}})
    events: list[tuple[int, str, bytes | None, bytes | None]] = field(
        default_factory=list
    )  # revision, key, now, before

    @property
    def state(self) -> dict[str, Row]:
        return self.states[self.head]

    def mod(self, key: str) -> int:
        return self.state[key].mod if key in self.state else 0

    def txn(self, item: BatchItem) -> bool:
        if any(self.mod(compare.key) != compare.mod_revision for compare in item.compares):
            return False
        state, events, revision = copy.deepcopy(self.state), [], self.head + 1
        for operation in item.operations:
            before = state.get(operation.key)
            if isinstance(operation, Put):
                state[operation.key] = Row(operation.value, before.create if before else revision, revision)
                events.append((revision, operation.key, operation.value, before.value if before else None))
            elif before is not None:
                del state[operation.key]
                events.append((revision, operation.key, None, before.value))
        if events:
            self.head = revision
            self.states[revision] = state
            self.events += events
        return True


@dataclass(frozen=True)
class Step:
    """`pick` chooses among revisions, which are known only when the step is taken."""

    kind: str
    key: str = ""
    prefix: str = ""
    pick: float = 0.0
    limit: int = 0
    items: tuple[tuple[tuple[tuple[str, bool], ...], tuple[Operation, ...]], ...] = ()


operations = st.lists(
    st.one_of(st.builds(Put, keys, values), st.builds(Delete, keys)),
    max_size=3,
    unique_by=lambda operation: operation.key,
).map(tuple)
compares = st.lists(st.tuples(keys, st.booleans()), max_size=2, unique_by=lambda compare: compare[0]).map(tuple)
item = st.tuples(compares, operations)
fraction = st.floats(0, 1)
steps = st.lists(
    st.one_of(
        st.builds(Step, st.just("txn"), items=st.tuples(item)),
        st.builds(Step, st.just("batch"), items=st.lists(item, min_size=1, max_size=4).map(tuple)),
        st.builds(Step, st.just("get"), key=keys, pick=fraction),
        st.builds(
            Step, st.just("list"), prefix=st.sampled_from(PREFIXES), key=keys, pick=fraction, limit=st.integers(0, 4)
        ),
        st.builds(Step, st.just("watch"), prefix=st.sampled_from(PREFIXES), pick=fraction),
        st.builds(Step, st.just("compact"), pick=fraction),
        st.builds(Step, st.just("reopen")),
    ),
    max_size=25,
)


async def follow(store: Store, steps: list[Step], reopen: Callable[[Store], Awaitable[Store]]) -> None:
    """Takes the steps; one watch, opened at the start, follows all the way."""
    model = Model()
    always, told = store.watch("", from_revision=2), list[tuple[int, str, bytes | None, bytes | None]]()
    for step in steps:
        revision = round(step.pick * (model.head + 1))
        if step.kind in ("txn", "batch"):
            for result, expected in await written(store, model, step):
                assert result == expected
        elif step.kind == "get":
            kv = await readable(model, revision, store.get(step.key, revision=revision))
            if kv is not False:
                row = model.states[revision or model.head].get(step.key)
                assert (None if kv is None else Row(kv.value, kv.create_revision, kv.mod_revision)) == row
        elif step.kind == "list":
            await check_list(store, model, step, revision)
        elif step.kind == "watch":
            await check_watch(store, model, step.prefix, revision)
        elif step.kind == "compact":
            told += await events_of(always, model.head)  # a watch that lags may be overtaken by a compaction
            if 0 < revision <= model.head and revision > model.compacted:
                await store.compact(revision)
                model.compacted = revision
            else:
                refusal = ValueError if revision == 0 else Compacted if revision <= model.head else FutureRevision
                with pytest.raises(refusal):
                    await store.compact(revision)
        else:
            told += await events_of(always, model.head)
            await always.aclose()
            store = await reopen(store)
            always = store.watch("", from_revision=model.head + 1)
        assert await store.revision() == model.head
    told += await events_of(always, model.head)
    await always.aclose()
    assert sorted(told, key=lambda event: event[:2]) == sorted(model.events, key=lambda event: event[:2])


async def written(store: Store, model: Model, step: Step) -> list[tuple[object, object]]:
    made = []
    for compares, operations in step.items:
        # True: the right revision at the start of the step; false: a wrong one.
        made.append(
            BatchItem(
                tuple(Compare(key, model.mod(key) if right else model.mod(key) + 1) for key, right in compares),
                operations,
            )
        )
    results = [await store.txn(made[0].compares, made[0].operations)] if step.kind == "txn" else await store.batch(made)
    checked: list[tuple[object, object]] = []
    for item, result in zip(made, results, strict=True):
        before = {key: row for key, row in model.state.items()}
        succeeds = model.txn(item)
        checked.append((result.succeeded, succeeds))
        if not succeeds:
            found = [
                None if kv is None else Row(kv.value, kv.create_revision, kv.mod_revision) for kv in result.current
            ]
            checked.append((found, [before.get(compare.key) for compare in item.compares]))
        elif step.kind == "txn":
            checked.append((result.revision, model.head))
    return checked


async def readable(model: Model, revision: int, read: Awaitable[object]) -> object:
    """The result, or False where the model says that it must be refused."""
    if revision and revision < model.compacted:
        with pytest.raises(Compacted) as caught:
            await read
        assert caught.value.compacted == model.compacted
        return False
    if revision > model.head:
        with pytest.raises(FutureRevision):
            await read
        return False
    return await read


async def check_list(store: Store, model: Model, step: Step, revision: int) -> None:
    for after in ("", step.key):
        listed = await readable(
            model, revision, store.list(step.prefix, after=after, limit=step.limit, revision=revision)
        )
        if listed is False:
            continue
        state = model.states[revision or model.head]
        expected = [(key, state[key]) for key in sorted(state) if key.startswith(step.prefix) and key > after]
        found = [(kv.key, Row(kv.value, kv.create_revision, kv.mod_revision)) for kv in listed.items]
        assert found == expected[: step.limit or None]
        assert (listed.count, listed.more) == (len(expected), 0 < step.limit < len(expected))
        assert listed.revision == (revision or model.head)


async def check_watch(store: Store, model: Model, prefix: str, revision: int) -> None:
    watch = store.watch(prefix, from_revision=max(1, revision))
    try:
        if max(1, revision) <= model.compacted:
            with pytest.raises(Compacted):
                await asyncio.wait_for(anext(watch), LIMIT_S)
            return
        expected = [event for event in model.events if event[0] >= revision and event[1].startswith(prefix)]
        if expected:
            found = await events_of(watch, expected[-1][0])
            assert sorted(found, key=lambda event: event[:2]) == sorted(expected, key=lambda event: event[:2])
    finally:
        await watch.aclose()


async def events_of(watch: Watch, revision: int) -> list[tuple[int, str, bytes | None, bytes | None]]:
    """What the watch tells up to `revision`; it has begun after an earlier one."""
    events: list[tuple[int, str, bytes | None, bytes | None]] = []
    async with asyncio.timeout(LIMIT_S):
        reached = watch._cursor.position  # type: ignore[attr-defined]
        while reached < revision:
            batch = await anext(watch)
            assert batch.revision > reached, "a revision came twice"
            reached = batch.revision
            for event in batch.events:
                before = None if event.previous is None else event.previous.value
                events.append((event.kv.mod_revision, event.kv.key, None if event.deleted else event.kv.value, before))
    return events


def check_sqlite(steps: list[Step], *, inline: bool) -> None:
    folder = Path(tempfile.mkdtemp(prefix="wherry-model-"))

    async def open_it() -> Store:
        return await open_store(f"sqlite://{folder}/store.db", Env(), inline=inline)

    async def main() -> None:
        opened = [await open_it()]

        async def reopen(store: Store) -> Store:
            await store.close()
            opened.append(await open_it())
            return opened[-1]

        try:
            await follow(opened[0], steps, reopen)
            opened[-1].check_invariants()  # type: ignore[attr-defined]
        finally:
            await opened[-1].close()

    try:
        asyncio.run(main())
    finally:
        shutil.rmtree(folder)


common = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@settings(common, max_examples=60)
@given(steps)
def test_sqlite_inline(steps: list[Step]) -> None:
    check_sqlite(steps, inline=True)


@settings(common, max_examples=25)
@given(steps)
def test_sqlite_threaded(steps: list[Step]) -> None:
    check_sqlite(steps, inline=False)


@pytest.mark.full
@pytest.mark.timeout(600)
@settings(common, max_examples=1500)
@given(steps)
def test_sqlite_inline_at_length(steps: list[Step]) -> None:
    check_sqlite(steps, inline=True)


@pytest.mark.etcd
@pytest.mark.parametrize("examples", [8, pytest.param(60, marks=[pytest.mark.full, pytest.mark.timeout(900)])])
def test_etcd(tmp_path: Path, examples: int) -> None:
    """One server, a fresh data folder for each example."""
    binary = require_binary("etcd", "etcd-server")

    @settings(
        common, max_examples=examples, phases=[Phase.explicit, Phase.reuse, Phase.generate]
    )  # shrinking takes long
    @given(steps)
    def check(steps: list[Step]) -> None:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        cluster = EtcdCluster.make(binary, folder)
        cluster.start()
        try:
            runner.run(against(cluster, steps))
        finally:
            cluster.stop()

    async def against(cluster: EtcdCluster, steps: list[Step]) -> None:
        tls = TLSFiles(str(cluster.tls.ca), str(cluster.tls.certificate), str(cluster.tls.key))
        async with asyncio.timeout(
            60
        ):  # a machine under load may keep a fresh server from its CPU for longer than a call waits
            while True:
                try:
                    store = await open_store("etcd://" + ",".join(cluster.endpoints), Env(), tls=tls)
                    break
                except Unavailable:
                    continue

        async def reopen(store: Store) -> Store:
            return store

        try:
            async with asyncio.timeout(30):
                await follow(store, steps, reopen)
        finally:
            await store.close()

    with asyncio.Runner() as runner:  # one loop for all examples: grpc.aio does not like them to change
        check()
