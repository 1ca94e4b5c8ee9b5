"""What every service process has: arguments, logs, metrics, health, signals, a staged drain."""
