"""What makes an object invalid, per subject, in Kubernetes' words (checked against recordings of a real API server).

Functions take a message and the path at which it stands, and give back causes; an empty list means that it is fine. Pure.
Called by the strategies; metadata, which every kind has, is `registry.metadata`'s.
"""
