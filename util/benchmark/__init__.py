"""The plain way and ours, measured in turn in one run: a table and a JSON file out."""
