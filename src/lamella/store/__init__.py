"""A store: layers and snapshots on real file systems, one directory that several processes may use at once."""
