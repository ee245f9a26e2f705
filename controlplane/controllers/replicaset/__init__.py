"""ReplicaSet -> Pods. Reads ReplicaSets and pods; makes and deletes pods, writes the ReplicaSet's status.

`plan` decides, `expectations` keeps a lagging cache from making it decide twice, `controller` carries out.
"""
