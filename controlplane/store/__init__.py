"""The store: the step of the data path where an object becomes durable, and where everybody learns of it.

What belongs here: the contract (`base`), its backends (`sqlite` over `sqlite_file`, `etcd` over `etcd_rpc`), the fault
injector for simulations (`faulty`), what they share for watching (`events`), the watch cache (`cache`), compaction and
backups (`maintenance`), and the factory that turns a URL into a store (`open`). It reads and writes bytes under
string keys and knows revisions, never kinds: that is the registry's subject, which is its only caller besides the CLI's
backup verbs. Of the backends, only the one in use is imported.
"""
