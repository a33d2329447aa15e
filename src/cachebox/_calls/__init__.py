"""Cached functions: the key of a call, what a function is known by, and the callable that takes its place."""
