"""Servers and connections to them: addresses, drivers, pools, topology, circuit breakers."""
