"""Entry points, one file per job: read the settings, run the pipeline, print the result, give the exit code."""
