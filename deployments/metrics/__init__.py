"""What Prometheus is told, through Ray's metrics."""
