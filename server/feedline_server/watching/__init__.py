"""What a loader shows of itself: the last minute, metrics, the page."""
