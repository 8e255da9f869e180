"""Latency prediction in the picker: what predicted-latency-producer is made of. The model itself is `epp_predictor`.

slo           the latencies that a request asks for
content       where the tokens are in a streamed response
ledger        requests and tokens on their way, endpoint by endpoint, before and after their first token
running_slos  the tightest promise among the requests that run on an endpoint
rows          the features of every candidate, as one matrix
learner       the predictor, the training process beside it, and what both know of endpoints
course        one request from its dispatch to its end: what it shows, and what may be learnt from it
metrics       all of that in numbers
"""
