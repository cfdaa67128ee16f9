"""Which loader is asked for which key, and what happens when one fails."""
