"""From image files and strings to what the programs of an exported folder read."""
