"""Garbage by owner references: what goes when its owners go, in the background, in the foreground, or not at all (orphan).

Reads the metadata of every served kind (Events apart) into a `graph`; `plan` decides about one object at a time from the
graph and from what the server says right now, `controller` carries out. Nothing is ever deleted on the word of a cache:
the object and each of its owners are read from the server first, and the deletion names uid and revision.
"""
