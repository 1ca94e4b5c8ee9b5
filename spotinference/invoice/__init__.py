"""`spotinference invoice`: import provider invoices and reconcile them."""
