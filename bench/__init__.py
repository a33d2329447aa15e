"""Benchmarks of the cache beside what else there is; README.md in this folder says how to run them."""
