"""The columns that kubectl users know, per kind. Pure: an object and the time in, cells out. Used by `registry.table`."""
