"""How every part of Wherry, and every outsider, sees the cluster: a typed client over a transport.

Step of the data path: between a program and a front. `base` holds the faces; `client` the typed calls; `grpc` and `local`
the two transports (sockets, and in process); `grpc_errors` and `status` the mapping of errors; `informer`, `workqueue` and
`controller` what a controller is built from; `events`, `leader` and `config` what its name says. It reads and writes nothing
but RPCs (and, in `config`, the client config file). No semantics of kinds belong here.
"""
