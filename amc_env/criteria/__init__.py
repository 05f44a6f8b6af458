"""Scores of channels, higher = keep: pure functions, one module for each kind of input."""
