"""What the pages say and who may do what: no clock, no network, no database."""
