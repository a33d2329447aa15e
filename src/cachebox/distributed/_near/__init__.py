"""The near cache in the process, and client tracking that keeps it coherent."""
