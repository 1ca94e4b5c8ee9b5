"""Rules without a clock or I/O: what to reject, whom to serve next, what a stream contains."""
