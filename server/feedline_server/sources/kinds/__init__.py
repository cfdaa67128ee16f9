"""One module for each kind of dataset, and `opening`, which lists them."""
