"""One strategy per served kind, grouped by subject. They tie defaults, validation, tables and the rules of what an update
may touch together; `kinds` lists them. Pure: no I/O, no clock."""
