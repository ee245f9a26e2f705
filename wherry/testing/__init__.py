"""What tests stand on: virtual time, a simulated cluster, builders of objects, and what a test needs from its machine.

`loop` (time that jumps, runs that a seed decides) and `plugin` (its pytest side); `builders`, `workloads`, `manifests` (objects);
`cluster` with `node`, `network`, `history`, `checkers` and `chaos` (the real control plane and the real agents on virtual
time); `require` (root, programs). It imports everything and nothing in production imports it.
"""
