"""What is timed, each in a process of its own: vljax, and what it is compared with."""
