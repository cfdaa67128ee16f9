"""Columns of one length: laid end to end, cut into windows, joined."""
