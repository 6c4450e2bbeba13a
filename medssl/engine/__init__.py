"""The only training loop, its optimiser, checkpoints, monitors, and the scoring of pools."""
