"""The controllers: the step of the data path that turns what is asked for into objects that nodes can run, and cleans up.

Each is a package with a pure `plan` (values in, actions out) and a thin `controller` (informers in, client calls out).
They see the cluster only through `wherry.client`, as an outsider would, so they run inside the control plane or apart
from it. What a controller must remember is in the objects: a crash at any line costs a reconcile, nothing else.
`manager` starts them all with shared informers; it is the only entry (called by `controlplane.server`).

Not here: where a pod runs (scheduler), how it runs (node agent), what an object may look like (registry).
"""
