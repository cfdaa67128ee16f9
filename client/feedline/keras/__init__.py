"""`RemoteSequence`: batches for `model.fit`. The only package that imports keras."""
