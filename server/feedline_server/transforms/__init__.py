"""What is done to samples between their source and the slot: one small module a subject."""
