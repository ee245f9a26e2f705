"""`wherry up`, `down`, `status` and `image load`: a whole cluster on this machine.

Makes node hosts out of network namespaces, builds and loads the images that need no registry, starts `wherry server` and one
`wherry agent` per node as processes of their own, and takes all of it away again. It knows processes, links, files and cgroups;
of the API it uses only the client. What a node does by itself belongs to `kubelet`, what an object means to `controlplane`.
"""
