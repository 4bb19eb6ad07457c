"""The restore job.

`job` is its course, `settings` what may be asked for, `stage` what is done to one shard, `estimate` the dry run,
`summary` and `report` the page. Start with `job.run_restore`.
"""
