"""Frontends: each brings the models of one framework in, with their plan and state."""
