"""Measures of information in feature maps and filters: pure functions on tensors."""
