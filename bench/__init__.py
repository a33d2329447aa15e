"""Benchmarks of the cache, compared with alternatives; README.md in this folder says how to run them."""
