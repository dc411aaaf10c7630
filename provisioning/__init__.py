"""Where it runs: the embedded Conductor server; rented GPUs will live beside it."""
