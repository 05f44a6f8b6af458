"""Ways to repair a pruned network, published ones and ours, on the same kept channels."""
