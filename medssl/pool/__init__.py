"""Catalog and shards: what ingest leaves and everything else reads."""
