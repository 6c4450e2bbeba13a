"""Losses as functions of tensors, without state."""
