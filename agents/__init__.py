"""Learners and searchers."""
