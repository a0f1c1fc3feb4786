"""Rendered depth frames of hands in NYU's layout: a seed in, a split on disk or a moving hand out."""
