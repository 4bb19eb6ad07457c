"""Entry points, one file a job: read the settings, run the pipeline, print the result, give the exit code."""
