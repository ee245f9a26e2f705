"""Deletion of a namespace: everything in it goes, pods first, then the namespace itself.

Reads Namespaces and, by discovery, every kind that lives in one; deletes their objects, reports in the namespace's
conditions what holds it up, and takes its finalizer off at the end. `plan` decides, `controller` carries out.
"""
