"""Benchmarks of the cache beside what else there is. README.md of this folder says how to run them."""
