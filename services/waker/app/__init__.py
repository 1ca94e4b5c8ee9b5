"""What the waker does when something happens: lead, step, write, call providers, answer commands."""
