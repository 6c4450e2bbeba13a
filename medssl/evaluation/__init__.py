"""Measures an encoder by transfer: probes, intervals, baselines, the gate."""
