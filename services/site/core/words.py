"""What the pages say where a figure is missing: each reason in words."""

from shared.messages.invoices import InvoiceState
from shared.messages.public import BandReason, PublicReason
from shared.messages.trail import ChangeCause

REASONS: dict[PublicReason, str] = {
    "no_tokens": "no tokens were served",
    "no_bill": "the cost has not been delivered yet",
    "bill_missing": "a part of the bill has not come yet",
    "failed": "the figures could not be made",
    "no_price": "a tier has no price per hour",
}
BAND_REASONS: dict[BandReason, str] = {
    "few_tokens": "too few tokens on billed days",
    "no_cost": "its tokens cost nothing",
    "above_ladder": "it costs more than the last step",
    "not_made": "no band has been made yet",
}
BILL_STATES: dict[InvoiceState, str] = {
    "open": "what is payable has not been recorded yet",
    "ties": "ties to what is payable",
    "differs": "does not tie to what is payable",
    "voided": "voided: its charges do not count",
}
CHANGES: dict[ChangeCause, str] = {
    "first": "the first one",
    "charges": "charges of the bill",
    "estimate": "the estimate of what has no bill",
    "running_bill": "the provider's running bill",
    "journal": "the journal of machine states",
    "usage": "counted usage",
    "invoices": "how the invoices tie",
    "day_over": "the day is over",
    "settings": "settings",
    "calculation": "a newer version of billing",
}
