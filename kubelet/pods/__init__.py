"""One pod on one node: what is to be done about it, doing it, and telling how it went.

Step of the data path: desired pods come from `kubelet.agent` (the control stream), actions go to `kubelet.runtime`,
statuses go back to the agent. `plan` and `report` are pure; `worker` does the I/O around them with `config`, `env`,
`security` and `resources` (what a container is made of), `probes`, `hooks`, `images` and `status`.
Nothing here knows gRPC or other pods.
"""
