"""What holds a trainer back: its waits by stage, and the verdict on them."""
