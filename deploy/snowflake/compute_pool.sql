CREATE COMPUTE POOL IF NOT EXISTS {{ compute_pool }}
  MIN_NODES = 1 MAX_NODES = {{ compute_pool_max_nodes }} INSTANCE_FAMILY = {{ compute_pool_family }} AUTO_SUSPEND_SECS = 300;
