"""The block level: thin pools as device mapper keeps them, their metadata, and what changed between two thin devices."""
