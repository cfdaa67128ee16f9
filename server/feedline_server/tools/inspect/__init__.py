"""`feedline inspect PATH`: what would be served, found without serving."""
