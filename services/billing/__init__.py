"""Invoices in, the daily cost per million tokens out."""
