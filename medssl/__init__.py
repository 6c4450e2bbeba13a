"""Pretrain on every unlabelled scan, prove that it transfers, choose what to label, fine-tune with few labels."""

__version__ = "0.1.0"
