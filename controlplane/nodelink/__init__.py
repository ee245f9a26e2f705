"""The control plane's end of the node agents' streams.

Steps of the data path: pods that are bound to a node go down its stream, and statuses come up and into the registry.
`servicer` is NodeLink; `connection` one agent's control stream; `sessions` joins a client's log or exec call with the agent's;
`heartbeats` keeps in memory who was heard when; `monitor` writes Ready=Unknown for a node that fell silent, renews Leases and
hands out pod CIDRs. Reads and writes through the registry. Deciding what becomes of a lost node's pods is not its business
(`controllers.nodelifecycle`).
"""
