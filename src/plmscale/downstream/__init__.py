"""Downstream evaluation: the same tasks for every model of a study and any other protein model."""
