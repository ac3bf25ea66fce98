"""A grid on a cluster: jobs that each work at it, and the process that follows them."""
