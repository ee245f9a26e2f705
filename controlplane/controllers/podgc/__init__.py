"""Pods that nobody else will remove: of nodes that are gone, deleted before they had a node, finished beyond a threshold.

Reads pods and Nodes, deletes pods at once (no agent is there to end them). `plan` decides, `controller` carries out.
"""
