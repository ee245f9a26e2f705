"""PodDisruptionBudget -> its status: how many of its pods may be evicted now.

Reads budgets, their pods, and the owners of these for how many pods there should be; writes the status, which the registry's
eviction takes disruptions from (`controlplane.registry.eviction`). `plan` decides, `controller` carries out.
"""
