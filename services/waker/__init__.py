"""The only writer of fleet state: wakes machines, drains them, puts them to sleep."""
