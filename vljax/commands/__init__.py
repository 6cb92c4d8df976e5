"""The `vljax` command, one file a sub-command."""
