"""Accounts at clouds, for every service that asks one."""
