"""Memory that is given back: less of the libraries is mapped, and they go on working."""

from __future__ import annotations

import subprocess
import sys

import pytest

from wherry.api import resident

PROGRAM = """
import hashlib, json, sqlite3, ssl
import grpc, numpy
from wherry.api import resident
resident.bound_malloc()
before = resident.mapped_bytes()
resident.give_back()
after = resident.mapped_bytes()
assert numpy.arange(10).sum() == 45
assert sqlite3.connect(":memory:").execute("SELECT 6 * 7").fetchone() == (42,)
ssl.create_default_context()
print(before, after)
"""


@pytest.mark.skipif(not resident.supported(), reason="only on 64-bit Linux with glibc")
def test_code_that_is_not_in_use_is_unmapped() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=120)
    before, after = map(int, ran.stdout.split())
    assert after < before / 2
