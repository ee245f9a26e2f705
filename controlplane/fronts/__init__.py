"""The fronts: how requests reach the registry. They carry, and hold no semantics.

Step of the data path: client -> front -> registry. `call` is what goes beside a request (who asks, why, until when);
`resources`, `pods`, `scheduling` and `health` are the servicers, plain async methods over (request, call); `services` gathers
them under their RPC names. `grpc` binds them to sockets; `wherry.client.local.LocalTransport` calls them in process. Each
servicer authorises, turns the request into one call of the registry (or of the node link), and encodes what comes back.
"""
