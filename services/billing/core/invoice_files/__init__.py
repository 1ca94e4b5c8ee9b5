"""What invoice files look like, and how their text becomes charges. SQL as text; nothing runs here."""
