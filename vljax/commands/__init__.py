"""The `vljax` command, one file for each sub-command."""
