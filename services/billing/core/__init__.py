"""The arithmetic of the books: no clock, no files, no network. Money is whole units of 10⁻¹² USD, time milliseconds."""
