"""Decisions: (DurableApp, Observed, now) -> Plan. Pure; the clock is an argument."""
