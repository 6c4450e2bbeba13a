"""From pool to batches: deterministic preparation, keyed views, sampler, loader."""
