"""CEL, the expression language of Kubernetes' validation rules and policies: compiled with types, run with a budget.

`program.compile` is the way in; who declares variables takes `types`. Knows nothing of definitions, policies or objects: a
rule of a CustomResourceDefinition and a ValidatingAdmissionPolicy both come here. Import it only where a rule exists: a cluster
without rules need not pay for it.
"""
