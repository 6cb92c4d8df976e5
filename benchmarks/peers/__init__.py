"""The programs that benchmarks time, each in its own process: vljax and its peers."""
