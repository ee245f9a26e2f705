"""The registry: where every read and write of an object goes through, whatever its kind and whatever the front.

Step of the data path between a front (which decodes, and knows who asks) and the store (which knows bytes): defaults ->
admission -> validation -> one store transaction, and reads and watches from the watch caches. `base` is its face, `registry`
the implementation, `kinds` the table of what is served. It knows no transport, and decides nothing that a controller could.
"""
