"""What the machine and the operating system offer: cores, signals, logs, addresses."""
