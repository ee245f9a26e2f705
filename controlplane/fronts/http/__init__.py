"""The HTTP front: the Kubernetes REST API, for kubectl, client libraries and operators as they are.

Step of the data path: client -> front -> registry. It reads a request off TLS, finds out who asks and what for (`paths`,
`params`, `media`, `bodies`, all pure), asks the authoriser, calls the registry once, and encodes the answer (`encoding`,
`discovery`, `openapi`). Sessions with containers (`sessions`) go to the same Pods servicer that gRPC uses. What an object means
does not belong here: that is the registry's. `server` is the listener, started by `wherry server`.
"""
