"""The bytes between the tiers: protocol, values, names of keys, scripts, shapes of replies. Opens no connection."""
