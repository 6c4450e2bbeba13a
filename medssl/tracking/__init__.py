"""The journal of every run, and MLflow as its sink."""
