"""The operations over both tiers, written once as generators for both drivers."""
