"""Device meshes, sharding rules, collectives, and runs of several processes."""
