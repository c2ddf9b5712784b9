"""Images: read from an OCI image layout, verified, and written into one."""
