"""Pure: no clock, no sockets. What to refuse, whom to serve, what a stream says."""
