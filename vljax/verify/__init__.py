"""Measures the published numbers of released models again (`vljax verify`)."""
