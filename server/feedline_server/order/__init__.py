"""Which sample is at which position: pure arithmetic."""
