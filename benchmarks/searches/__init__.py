"""Searches side by side: what each agent's network is worth on the test images."""
