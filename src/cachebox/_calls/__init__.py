"""Cached functions: call keys, the names of functions, and the callables that take their place."""
