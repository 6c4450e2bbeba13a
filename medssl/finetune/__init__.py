"""Supervised use of an encoder."""
