"""The skeleton of a process: arguments, logs, metrics, health, signals, staged drain."""
