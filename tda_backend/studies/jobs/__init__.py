"""Runs that somebody started: job files, heartbeat, ingest."""
