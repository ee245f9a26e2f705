"""Everything here runs on virtual time and an inline store in memory."""

from __future__ import annotations

from wherry.testing.plugin import *  # noqa: F403
