"""The steps of the pipeline, one a file: its inputs, and the function that is given those and nothing else."""
