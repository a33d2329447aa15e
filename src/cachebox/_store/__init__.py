"""The state of one cache, changed under one lock: entries, order, deadlines, weights, tags."""
