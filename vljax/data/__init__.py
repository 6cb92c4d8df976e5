"""Data: sources of captioned images, tokenizers, transforms and the pipeline that batches them."""
