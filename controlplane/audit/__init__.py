"""The audit log: who asked for what, when, and what came of it, as audit.k8s.io/v1 Events, one JSON line each. Off unless the
server has a policy and a path.

`policy` says what is written of a request (pure), `events` writes it down (pure), `sink` brings it into a file that is rotated,
`recorder` follows a request through its stages. Called by the transports; knows nothing of HTTP or gRPC.
"""
