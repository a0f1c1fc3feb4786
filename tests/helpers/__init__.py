"""What several test files share: small data sets, stand-in networks, processes, a browser."""
