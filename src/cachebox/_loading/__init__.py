"""Values that are missing or due: single flight, loaders, refreshing, warming, negative caching."""
