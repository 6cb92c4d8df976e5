"""Meshes, sharding rules and what runs across devices."""
