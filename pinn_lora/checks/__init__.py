"""Checks of a problem before anything is trained on it."""
