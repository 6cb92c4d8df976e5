"""Folders and files of open_clip."""
