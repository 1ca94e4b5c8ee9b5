"""The audit of the books as a test: a month of bills, a journal and usage, and an oracle that shares no code with them.

`facts` are what happened, `month` and `bills` make them by a seed, `vendors` writes the bills as vendors do, `services`
runs the real meter and the real books. The oracle (`oracle`, `attribution`, `machine_time`, `settlement`, `prices`,
`amounts`) imports nothing of the project; `comparison` puts what is published beside it.
"""
