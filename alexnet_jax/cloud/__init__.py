"""Object storage: the objects of a bucket, and local copies of what lies in one."""
