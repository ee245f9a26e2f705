"""The image of the compose cluster is built from one Dockerfile whose base is an argument."""

from __future__ import annotations

import pytest

from wherry.testing.dockerd import Dockerd

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

BASE, IMAGE, MAKER = "test/base:1", "wherry:other", "base-maker"


def test_the_base_is_an_argument(dockerd: Dockerd) -> None:
    """A base that has a mark of its own, and none of its packages missing."""
    repositories = dockerd.docker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    made = next(name for name in repositories if name.startswith("wherry-base:"))
    try:
        dockerd.docker("run", "--name", MAKER, "--network", "none", made, "sh", "-c", "echo mine > /etc/base-mark")
        dockerd.docker("commit", MAKER, BASE)
        assert f"built {IMAGE} on {BASE}" in dockerd.build_images(IMAGE, BASE)
        run = ("run", "--rm", "--network", "none", "--entrypoint", "sh", IMAGE, "-c")
        assert dockerd.docker(*run, "cat /etc/base-mark; wherry --help").stdout.startswith("mine\n")
    finally:
        dockerd.docker("rm", "--force", MAKER, check=False)
        dockerd.docker("rmi", "--force", IMAGE, BASE, check=False)


def test_a_base_that_is_not_there_is_named(dockerd: Dockerd) -> None:
    with pytest.raises(AssertionError, match=r"no image nobody\.invalid/has-this:1 here"):
        dockerd.build_images(IMAGE, "nobody.invalid/has-this:1")
