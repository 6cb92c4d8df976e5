"""Conversion of any source to ArrayRecord files or tar shards: parallel, resumable, deterministic.

`run.py` runs a conversion on this machine or by `beam.py`; `job.py` has its plan and the files in
its folder; `shard.py` writes one shard; `example.py` and `images.py` prepare one example.
"""
