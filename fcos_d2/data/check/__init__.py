"""Everything that can be wrong with a dataset: ``fcos-d2 check-data``."""
