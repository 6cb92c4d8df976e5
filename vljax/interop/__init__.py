"""Models of other software, read and written: a file or folder for each foreign format."""
