"""Wherry: what the control plane and the node agents share, and the command line.

Layers, lowest first: `wherry.pb` (generated from proto/), `wherry.api` (types, codec, patch), `wherry.client`, and on top
`wherry.cli` and `wherry.testing`. docs/architecture.md tells the whole way of a manifest.
"""

__version__ = "0.1.0"
