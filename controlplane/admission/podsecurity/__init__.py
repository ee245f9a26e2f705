"""The Pod Security Standards: which pods a namespace takes at its level. `levels` reads the namespace's labels, `baseline` and
`restricted` hold the checks, `evaluate` runs those of a level. All pure; called by `controlplane.admission.pod_security`, and
loaded when a namespace has a level."""
