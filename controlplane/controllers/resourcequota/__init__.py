"""ResourceQuota -> its status: what the namespace uses. Admission charges each write in the write's own transaction; this
counts anew what no client's write tells: pods that end, pods that their nodes remove, a quota that is new or has changed.

Reads ResourceQuotas, pods and what else a quota limits; writes the status of ResourceQuotas. `plan` decides, `controller`
carries out.
"""
