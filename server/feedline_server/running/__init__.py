"""Starting a loader, or several from one command, and ending them: signals, drain, replacement."""
