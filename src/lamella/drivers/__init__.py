"""Storage drivers: how snapshots lie on disk, one driver a file. docs/drivers.md teaches a new one."""
