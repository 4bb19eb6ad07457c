"""The train job, on Ray Train.

`job` is its course, `settings` what may be asked for; `worker` is the loop of one worker, fed by `feed` in the order
of `windows`; `checkpoints`, `halt`, `validation`, `metrics_log`, `trackers` and `model_card` are what it leaves and
how it ends. Start with `job.run_train`.
"""
