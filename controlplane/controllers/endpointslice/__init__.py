"""Service and Pods -> EndpointSlices, and Endpoints for those who still read them.

Reads Services, pods and nodes; writes the EndpointSlices that carry our label, and the Endpoints of the same name as the
Service. `plan` says which endpoints there are and how they lie in slices, `legacy` what the Endpoints object is, `controller`
carries out. Slices that somebody else manages are left alone. Of a Service without a selector, the Endpoints that somebody has
written are shown as slices (`mirror`, `mirroring`).
"""
