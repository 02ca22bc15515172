"""Trials of certify: random graphs over all rules, and folders of models."""
