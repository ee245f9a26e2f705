"""The gRPC front: binds the servicers to sockets with TLS. `server` is the listener, `peers` tells who is at the other end."""
