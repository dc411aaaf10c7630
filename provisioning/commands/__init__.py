"""Subcommands of `whisperfleet` that rent, guard and account for machines."""
