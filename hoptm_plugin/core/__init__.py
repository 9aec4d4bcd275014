"""Interfaces, observations, registry, errors, the synthetic set, seeding: what everything else stands on."""
