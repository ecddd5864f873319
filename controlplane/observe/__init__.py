"""What we say about ourselves: logs and metrics."""
