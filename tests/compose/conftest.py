"""One Docker daemon and one image for all tests here; each module has a cluster of its own on it."""

from collections.abc import Iterator

import pytest

from wherry.testing.dockerd import Dockerd


@pytest.fixture(scope="session")
def dockerd() -> Iterator[Dockerd]:
    """With the image of the compose cluster."""
    made = Dockerd("--bridge", "none")
    try:
        made.start()
        made.build_images()
        yield made
    finally:
        made.stop()
