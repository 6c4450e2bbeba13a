"""The command line: words in, results out; every verb is imported when it is called, so that help stays quick."""

from medssl.cli.app import app, main

__all__ = ["app", "main"]
