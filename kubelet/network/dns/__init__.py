"""The cluster's name server, one on every node: what pods ask is answered on their own node.

Step of the data path: beside the pods. Reads Services and EndpointSlices (the informers that route Services have), and asks the
host's resolvers for all other names. `records` says what the cluster's names mean, `upstream` forwards and remembers,
`server` holds the sockets. It writes nothing but one address on the loopback link.
"""
