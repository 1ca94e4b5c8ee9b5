"""Pages behind the sign-in, and the sign-in itself."""
