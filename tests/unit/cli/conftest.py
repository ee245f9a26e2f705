"""Coroutine tests in this directory run on virtual time."""

from wherry.testing.plugin import *  # noqa: F403
