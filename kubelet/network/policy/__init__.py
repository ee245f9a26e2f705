"""NetworkPolicies on a node: which connections its pods may take and make, by one nftables table of our own.

Step of the data path: beside the pods, between the API and the kernel, where the pod is. Reads NetworkPolicies and Namespaces
(informers with the node's certificate) and, as long as there is a policy, the addresses and labels of all pods (`peers`, a
stream of the node link that tells no more of them). `plan` compiles a policy, `world` knows who its selectors mean, `ruleset`
of `kubelet.network.services` turns differences into one transaction, `controller` carries out.

What is not filtered: answers within a connection, what the node itself sends to its pods (probes) or they to it, and pods of
the host's network, which have no addresses of their own.
"""
