"""What Kubernetes fills in where a manifest is silent, one module per group of kinds. Pure and idempotent; part of the
strategies, which `writes` runs right after decoding. Nothing here depends on other objects: that is admission's.
"""
