"""Types of the data layer: what to fetch, how to read it, where endpoints come from. The service's own rooms do the work."""
