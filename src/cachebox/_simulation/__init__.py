"""Simulations of other policies and sizes: recorded requests, replayed on the engines."""
