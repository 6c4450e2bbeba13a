"""Tables, plots and the HTML report out of runs."""
