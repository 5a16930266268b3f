"""The network of the paper, one module a component."""
