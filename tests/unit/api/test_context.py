"""The process's own randomness: as long and as spread as asked for, never the same bytes twice."""

from __future__ import annotations

import pytest

from wherry.api.context import PAGE_BYTES, Entropy, Env


def test_numbers_have_the_bits_that_were_asked_for() -> None:
    rng = Entropy()
    for bits in (0, 1, 7, 8, 9, 48, 53, 128, 8 * PAGE_BYTES + 5):
        drawn = [rng.getrandbits(bits) for _ in range(40)]
        assert all(0 <= number < 2**bits for number in drawn)
        if bits >= 48:
            assert len(set(drawn)) == len(drawn)
            assert any(number >> (bits - 1) for number in drawn)
    with pytest.raises(ValueError, match="non-negative"):
        rng.getrandbits(-1)


def test_bytes_across_pages_do_not_repeat() -> None:
    rng = Entropy()
    drawn = [rng.randbytes(100) for _ in range(PAGE_BYTES // 25)]
    assert len(set(drawn)) == len(drawn)
    assert all(len(each) == 100 for each in drawn)
    assert len(rng.randbytes(PAGE_BYTES + 1)) == PAGE_BYTES + 1


def test_the_numbers_that_the_rest_uses() -> None:
    env = Env()
    assert all(0 <= env.rng.random() < 1 for _ in range(100))
    assert {env.rng.choice("ab") for _ in range(200)} == {"a", "b"}
    assert len({env.uuid() for _ in range(100)}) == 100
