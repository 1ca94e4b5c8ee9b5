"""Day and period reports: their figures, from allocated cost and token usage."""
