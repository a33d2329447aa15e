"""The engines: one table of entries, and one file for each policy that orders them.

They know keys, values and order.
"""
