"""What is run, and in which order: workflow definitions, the client, the `whisperfleet` command."""
