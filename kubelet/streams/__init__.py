"""Sessions that people open into a pod: logs, exec, attach, port-forward, stats.

Step of the data path: beside it. The control stream says OpenSession; `sessions` dials `NodeLink.Session` and joins
it with the runtime's stream or with a log file (`logs`). Every session is an RPC of its own, so its flow control is its
own. Nothing here changes a pod.
"""
