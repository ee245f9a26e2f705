"""What waits runs on virtual time."""

from __future__ import annotations

from wherry.testing.plugin import *  # noqa: F403
