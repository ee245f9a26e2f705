"""The rules of ClusterRoles that are made of others: those of all roles that their `aggregationRule` selects.

Reads and writes ClusterRoles. For whoever reads such a role: the authoriser puts it together itself, at each decision. `plan`
decides, `controller` carries out.
"""
