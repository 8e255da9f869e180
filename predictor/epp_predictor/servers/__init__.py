"""The predictor as two HTTP services, with the routes, fields and variables of llm-d's latency predictor.

    variables     environment variables: one table for reading, help and documentation
    schema        request bodies, and how they become features and samples
    ridge         Bayesian ridge regression, the alternative to boosted trees
    serving       a model of either kind as these services use it; its bytes
    store         samples of the training service, and what is told of them
    exposition    the metrics page
    http          what both applications share: bodies, errors, JSON
    training      the training service: `epp-predictor train`
    following     how a prediction service keeps up with its training service
    prediction    the prediction service: `epp-predictor serve`
    files         models in files
    learning      boosted trees in the training process, ridge in a thread
    listening     sockets and processes

Needs the extra `predictor` (FastAPI, uvicorn). An Endpoint Picker that predicts in its own process needs none of this.
"""
