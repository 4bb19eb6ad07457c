"""Ray, and nothing else: the connection, the graph that stages run on, the pool that follows the cluster.

`connection` joins or starts a cluster, `graph` runs a stage over shards, `datasource` and `reading` are its read
tasks, `metrics` counts for Prometheus, `watch` ends a run whose Ray is gone, `shared_storage` looks whether all nodes
see OUTPUT, `submit` sends a job elsewhere and `package` what goes along. Must know nothing of models or pictures. Start
with `graph.Graph`.
"""
