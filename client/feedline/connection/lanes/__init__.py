"""How the bytes of a batch arrive beside gRPC."""
