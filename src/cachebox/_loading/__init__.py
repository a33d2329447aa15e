"""Values that are missing or due: single flight, loaders, refreshes, warming, negative caching."""
