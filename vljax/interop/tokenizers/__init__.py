"""Tokenizer files that several formats share."""
