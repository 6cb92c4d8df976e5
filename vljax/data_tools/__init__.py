"""Tools for data sets outside of training: `vljax data inspect` and `vljax data convert`."""
