"""Measures the plain way of each work and ours in turn, in one run; a table and a JSON file come out."""
