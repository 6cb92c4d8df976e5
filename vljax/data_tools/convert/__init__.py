"""Any source to ArrayRecord files or tar shards: in parallel, in order, to be gone on with."""
