"""Property tests share their machine with whatever else runs on it: how long one example takes is no failure."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("wherry", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
settings.load_profile("wherry")
