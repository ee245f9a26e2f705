"""Everything under tests/sim runs on virtual time."""

from wherry.testing.plugin import *  # noqa: F403
