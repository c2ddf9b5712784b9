"""Trees served as mounts: FUSE, by libfuse's interface of inodes (extra ``lamella[fuse]``). ``python -m lamella.fuse``."""
