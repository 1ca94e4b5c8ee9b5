"""What each page loads and what each form does."""
