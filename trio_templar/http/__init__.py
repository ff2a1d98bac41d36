"""The HTTP API, and the dashboard: for publishers, operators and monitoring."""
