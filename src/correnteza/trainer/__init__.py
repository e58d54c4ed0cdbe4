"""The trainer: evaluates, learns, versions and serves the model."""
