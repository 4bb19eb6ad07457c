"""The evaluate job: images damaged, restored and scored.

`job` is its course, `settings` what may be asked for; `conditions` damages, `candidates` finds what is compared,
`metrics` what it is compared by, `model_pool` restores, `stage` scores one shard, `set_features` keeps what FID and
KID need; `reduction` and `summary` count, `report` and `charts` show. Start with `job.run_evaluate`.
"""
