"""The scheduler: the step of the data path that gives a Pod its node (watch -> binding).

Reads Pods and Nodes through `wherry.client` informers; writes bindings (`BindBatch`), the PodScheduled condition of pods
that wait, and Events. It sees the cluster only through the client, so it runs in the control plane's process or in one of
its own. What does not belong here: starting containers (the node agent), evicting from sick nodes (node lifecycle).

    informers -> Scheduler (shell) -> Cluster (rows of arrays, assume/confirm/forget)
                                   -> SchedulingQueue (active, back-off, unschedulable, gated)
                                   -> cycle (pure: classes, filters, scores) -> placements -> Binder
                                                                             -> failures   -> Reporter (events, condition)

Pods with equal scheduling needs share a `PodClass`: its feasible set and scores are vectors over the nodes' rows, computed
once and brought up to date row by row. Start reading at `cycle`, then `classes`.
"""
