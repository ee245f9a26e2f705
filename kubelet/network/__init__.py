"""The pod network of one node, as far as the node itself makes it: the CNI configuration that containerd reads, masquerading of
what leaves the cluster, forwarding, and routes to the other nodes' pods.

Step of the data path: beneath the runtime. The agent calls it when the control plane names the node's pod CIDR; `wherry up` and
`wherry down` call it for the local nodes. It reads and writes kernel state and CNI's files, and knows nothing of pods or of
the API. Services are `services`, cluster DNS is `dns`; `traffic` runs both, and these two alone read the API.
"""


class NetworkError(Exception):
    """Something about links, routes or rules can't be done; the message carries the tool's own words."""
