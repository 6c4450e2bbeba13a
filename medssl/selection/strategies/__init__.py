"""One ranking strategy a file; the file name is its name in a study."""
