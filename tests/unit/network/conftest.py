"""Everything under tests/unit/network runs on virtual time, but for what opens sockets (tests/unit/kubelet_io)."""

from wherry.testing.plugin import *  # noqa: F403
