"""Admission: the registry's second step, where a request is fitted to the cluster it meets, or refused. It reads other
objects (namespaces, service accounts, pods) through `Lookup` and the identity of the caller; it never writes.

`chain` puts the plugins in order; each plugin is a module. What one object alone decides is defaults' and validation's.
"""
