"""Caches in files: dumps, and the serializers that write them."""
