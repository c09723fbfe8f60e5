"""The registry interface over an OCI image layout: a folder, or a tar of one."""
