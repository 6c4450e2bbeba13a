"""Monitors watch training and raise alarms; they never change it. One monitor a file."""
