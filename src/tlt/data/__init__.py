"""Pairs with a known truth: simulated follow-ups, and how they become tensors."""
