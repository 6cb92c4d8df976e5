"""Several processes, usually one a host, that run as one: start, failure, agreement.

Everything here does nothing in a process that runs alone.
"""
