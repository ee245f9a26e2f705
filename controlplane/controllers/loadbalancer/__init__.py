"""Services of type LoadBalancer -> the addresses of nodes, since every node routes every Service: no balancer in front is needed.

Reads Services, nodes and EndpointSlices; writes status.loadBalancer of Services that name no class of their own. `plan` decides,
`controller` carries out; the nodes' own tables do the rest.
"""
