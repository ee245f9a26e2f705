"""The limits of the contract, checked in one place before any backend is asked. Called by every backend."""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.store.base import (
    MAX_OPERATIONS,
    MAX_TRANSACTION_BYTES,
    MAX_VALUE_BYTES,
    Compare,
    Delete,
    Operation,
    Put,
    TooLarge,
)


def check_transaction(compares: Sequence[Compare], operations: Sequence[Operation]) -> int:
    """The size of the transaction in bytes. Raises TooLarge, or ValueError for what is a defect of the caller."""
    if len(operations) > MAX_OPERATIONS or len(compares) > MAX_OPERATIONS:
        raise TooLarge(
            f"a transaction of {len(operations)} operations and {len(compares)} compares: at most {MAX_OPERATIONS} of each"
        )
    total = 0
    keys = set()
    for operation in operations:
        check_key(operation.key)
        keys.add(operation.key)
        total += len(operation.key)
        if isinstance(operation, Put):
            size = len(operation.value)
            if size > MAX_VALUE_BYTES:
                raise TooLarge(f"the value of {operation.key} has {size} bytes: at most {MAX_VALUE_BYTES}")
            if operation.ttl_s < 0:
                raise ValueError(f"ttl_s of {operation.key} is {operation.ttl_s}: must be 0 or more")
            total += size
        elif not isinstance(operation, Delete):
            raise TypeError(f"not an operation: {operation!r}")
    if len(keys) != len(operations):
        raise ValueError(f"a key occurs twice in one transaction: {sorted(o.key for o in operations)}")
    for compare in compares:
        check_key(compare.key)
        total += 2 * len(compare.key)  # etcd's request has them twice: to compare, and to read when that fails
    if total > MAX_TRANSACTION_BYTES:
        raise TooLarge(f"a transaction of {total} bytes: at most {MAX_TRANSACTION_BYTES}")
    return total


def check_key(key: str) -> None:
    if not key:
        raise ValueError("a key must not be empty")


def check_compaction(revision: int) -> None:
    if revision < 1:
        raise ValueError(f"cannot compact at revision {revision}: must be 1 or more")


def prefix_end(prefix: str) -> str:
    """The smallest string greater than all that start with `prefix`; "" when there is none."""
    for index in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[index])
        if code < 0x10FFFF:
            # Surrogates cannot be encoded, and no key holds one: the next code point after U+D7FF is U+E000.
            following = 0xE000 if code == 0xD7FF else code + 1
            return prefix[:index] + chr(following)
    return ""
