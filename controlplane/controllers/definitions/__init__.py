"""CustomResourceDefinitions: which names they get, when they are established, and the end of their objects.

`plan` decides (pure), `controller` reads and writes through a client. Unlike the other controllers it runs in every
replica of the API, since without it no definition is served; two of them come to the same decision, and the second
write changes nothing.
"""
