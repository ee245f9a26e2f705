"""ResourceQuota: what each write costs, refused or charged in the write's own transaction, so that two writes at once can't
exceed a quota together. `plan` is pure, `ledger` reads and locks. Loaded when there is a quota; see `chain`.

What is not a write of a client (a pod that ends, a pod that its node removes) gives its share back through the quota controller,
which counts anew."""
