"""feedline: a data loader that streams ready batches from loader servers."""
