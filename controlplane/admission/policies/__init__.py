"""ValidatingAdmissionPolicy and its bindings: rules in CEL that requests are held to. `compiled` makes programs of a policy and
runs them (pure), `params` finds what a binding gives it, `authorizer` lets it ask what the user may do, `enforce` puts requests
before all of them. Loaded when there is a policy; see `controlplane.admission.chain`.
"""
