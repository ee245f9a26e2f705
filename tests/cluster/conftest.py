"""Real processes: a `wherry server` on a free port of loopback, and the real command line against it."""

import subprocess
from collections.abc import Callable, Iterator

import pytest

from wherry.testing.server import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A control plane without nodes."""
    made = Server(tmp_path_factory.mktemp("server") / "data")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def wherry(server: Server) -> "Callable[..., subprocess.CompletedProcess[str]]":
    return server.run
