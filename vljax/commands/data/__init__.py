"""The sub-commands of `vljax data`: work on data sets outside of training."""
