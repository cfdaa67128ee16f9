"""Who may connect, and what they may see: tokens, TLS, where a loader may listen."""
