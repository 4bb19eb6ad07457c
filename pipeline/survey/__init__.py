"""The survey job: what is in an archive, what is damaged, and what a restore would cost.

`job` is its course, `settings` what may be asked for, `stage` looks at one shard, `summary` counts, `cost` estimates,
`report` shows. Start with `job.run_survey`.
"""
