"""pods/proxy and services/proxy: HTTP requests that are passed on to a port of a pod, and its answers back.

`places` decides which pod and port are meant, `rewrite` what of a request and an answer is passed on and in which words: both
pure. `exchange` speaks HTTP with the pod, `pods` puts them together. Called by `fronts.http.resources`, which has authorised
the request; imported when somebody asks the first time.
"""
