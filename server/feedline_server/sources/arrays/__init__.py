"""Arrays in files: found by their headers, mapped or read."""
