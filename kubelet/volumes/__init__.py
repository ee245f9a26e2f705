"""The volumes of pods on this node: made before the first container, kept up to date, removed with the pod.

Step of the data path: beside the runtime. `manager` is what `kubelet.pods.worker` sees (prepare, mounts, teardown);
`payload` works out the files of configMap, secret, downwardAPI and projected volumes (pure); `atomic` writes them so that
a reader never sees half of
an update; `directories` makes emptyDir and checks hostPath. It writes below the agent's root directory only.
"""
