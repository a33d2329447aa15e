"""The engines: one table of entries, and one file per policy that orders them. They know keys, values and order."""
