"""Runs on a cluster: what a job asks for, how it ends, which runs share one. Imports no torch."""
