"""The state of one cache, changed as one under one lock: entries, order, deadlines, weights, tags."""
