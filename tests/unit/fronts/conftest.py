"""Tests of the fronts' parts run on virtual time."""

from wherry.testing.plugin import *  # noqa: F403
