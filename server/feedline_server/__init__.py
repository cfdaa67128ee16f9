"""The loader server. Import its modules; this one stays empty so that a worker loads only what it needs."""
