"""One encoder architecture a file; the file name is its name in a study."""
