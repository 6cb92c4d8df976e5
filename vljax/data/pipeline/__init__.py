"""The order of examples, the batches made of them, and how a set is evaluated."""
