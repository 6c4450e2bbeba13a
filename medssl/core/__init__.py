"""Types, errors, configuration, plugins and keyed randomness."""
