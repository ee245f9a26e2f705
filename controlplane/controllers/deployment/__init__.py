"""Deployment -> ReplicaSets. Reads Deployments, ReplicaSets and pods; writes ReplicaSets, and a Deployment's status and revision.

`template` (which ReplicaSet is whose), `sizes` (how large each may be) and `status` are the leaves of the pure `plan`;
`controller` observes and carries out. Making pods is the ReplicaSet controller's business, not done here.
"""
