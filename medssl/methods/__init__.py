"""One self-supervised method a file; the file name is its name in a study."""
