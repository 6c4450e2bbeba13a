"""From a pile of files to a pool: sources, index, volumes, executors."""
