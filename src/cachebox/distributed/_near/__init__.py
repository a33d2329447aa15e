"""The near cache of the process, and the client tracking that keeps it coherent."""
