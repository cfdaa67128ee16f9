"""How the bytes of a batch reach a trainer beside gRPC: sockets, shared memory, straight from files."""
