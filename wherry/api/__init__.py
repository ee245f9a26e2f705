"""What both sides know of the API's objects: their text forms, how they are named, selected, patched, merged and owned.

First and last step of the data path: everything that comes in is decoded here, everything that goes out is encoded here. It
stands on `wherry.pb` alone and does no I/O; apart from the clock in `context` and the task group in `tasks` all of it is pure.
Defaults, validation of objects and admission belong to the registry, transport to the fronts and the client.
"""
