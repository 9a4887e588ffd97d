"""Kubernetes objects from a DurableApp: pure functions, one module per kind."""
