"""Custom resources: the kinds that CustomResourceDefinitions define, served by the same pipeline as every other kind.

`definitions` validates a definition, `structural` and `rules` its schemas; `catalogue` follows the definitions in the
store and keeps a `Served` for each version of each; `strategy` is what these contribute to the pipeline: `pruning`,
`defaulting` and `validating` by the schema. Everything works on plain JSON values; only `strategy` and `catalogue`
know messages. Imported with the first definition, since a cluster without any need not pay for it.
"""
