"""Hypergradients of learning rates, computed while training goes on: HD, RTHO, MARTHE."""
