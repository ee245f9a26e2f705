"""The command line: what people type, read and pipe.

Reads manifests and flags, talks to the control plane through `wherry.client` only, and prints. One module per verb or per
family of verbs under `wherry.cli.commands`; what they share stands here: `session` (connection, errors), `resources` (names as
people write them), `output` (tables and formats), `options` (flags), `jsonpath`. The cluster verbs (`up`, `down`, `status`,
`image`) are in `wherry.cli.cluster`; `server` and `agent` start the two kinds of process. No semantics of the API belong here.
"""
