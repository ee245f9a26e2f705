"""Lost and troubled nodes: taints from node conditions, and what the taints do to pods.

Reads Nodes (whose conditions the node link and the agents write) and pods; writes taints, evicts pods that do not
tolerate them (any longer), and marks the pods of an unreachable node as not ready. `plan` decides, `controller` carries
out. When pods are removed for good, because their node object is gone, is podgc's business.
"""
