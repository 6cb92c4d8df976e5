"""What a platform computes in its own way."""
