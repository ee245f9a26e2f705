"""OpenAPI documents, derived from the descriptors of the kinds that are served. Called by `handler`, made when first asked for.

`schemas` turns messages into definitions, `operations` the kinds into paths, `documents` both into the documents of OpenAPI v3
(one per group version) and v2 (one for all), `wire` the latter into the protobuf form that kubectl reads. There are no
descriptions: the schema holds facts only.
"""
