"""Conversion of any source to ArrayRecord files or tar shards: parallel, resumable, deterministic.

`run.py` runs a conversion, here or by `beam.py`; `job.py` is its plan and the files it keeps;
`shard.py` writes one shard; `example.py` and `images.py` decide what is written of one example.
"""
