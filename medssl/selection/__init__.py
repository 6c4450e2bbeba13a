"""Ranks unlabelled studies for annotation."""
