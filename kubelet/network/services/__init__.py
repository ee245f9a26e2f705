"""Services on a node: addresses and ports of Services lead to pods, by one nftables table of our own.

Step of the data path: beside the pods, between the API and the kernel. Reads Services and EndpointSlices (informers with the
node's certificate), writes the table. `plan` says what one Service adds to it, `ruleset` puts the parts together and turns a
change into one transaction of nft, `controller` carries out. Nothing here knows pods or the runtime.
"""
