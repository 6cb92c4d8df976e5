"""Preprocessing of image files and texts, and the programs of an exported folder."""
