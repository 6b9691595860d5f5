"""Finished runs as folders that Hugging Face's transformers loads."""
