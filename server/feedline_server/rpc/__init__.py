"""The gRPC service. The only package of the server that imports gRPC."""
