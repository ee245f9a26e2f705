"""What every namespace has from the start: the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`.

Reads Namespaces and those two objects, makes them, and puts the ConfigMap right when somebody changes it. `plan` decides,
`controller` carries out.
"""
