"""What a batch does and what a day holds: pure, no I/O, no clock."""
