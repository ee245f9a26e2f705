"""Ingress: HTTP from outside the cluster to the pods behind Services, by way of haproxy.

Step of the data path: on the edge, between browsers and the pods. Reads Ingresses, IngressClasses, Services, EndpointSlices
and TLS Secrets; runs haproxy and writes the Ingresses' status. `routes` says what they mean together (pure), `haproxy` turns
that into files and commands (pure), `process` owns the program, `controller` carries out. Run by `wherry ingress`, on any host
that reaches the pods.
"""
