"""Data sets, their samples and the loaders that turn them into batches."""
