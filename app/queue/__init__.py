"""The durable queue: legal job states, claiming under a lease, the worker process and its supervisor."""
