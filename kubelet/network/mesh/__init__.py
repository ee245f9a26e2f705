"""The way to the pods of other nodes: plain routes to those on a segment with this node, VXLAN to the others.

Step of the data path: beside the pods, between the API and the kernel. Reads Nodes (podCIDR and InternalIP, by an informer with
the node's certificate); writes routes, and one link with its neighbours and forwarding entries. `plan` chooses and turns
differences into commands, `kernel` reads and carries out, `controller` keeps both level. Run by `kubelet.network.traffic`; what
this node's own pods stand on is `kubelet.network.node`.
"""
