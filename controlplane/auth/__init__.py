"""Who is who, and who may do what.

Beside the data path, in front of every request: `ca` makes and keeps the cluster's certificate authority, `certificates` what
it issues, `serving` renews the server's own, `tokens` and `join` let nodes in, `csr` signs CertificateSigningRequests;
`authorizer` asks the deciders in `deciders` and `nodes`. Reads and writes keys under /wherry/ in the store, and objects
through the registry. Transport is not its business (`fronts`), nor are the files of clients (`wherry.client.config`).
"""
