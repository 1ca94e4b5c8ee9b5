"""Cloud accounts, for every service that calls one."""
