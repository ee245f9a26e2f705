"""Everything under tests/unit/controllers runs on virtual time."""

from wherry.testing.plugin import *  # noqa: F403
