"""The subcommands of `whisperfleet`: options in, one call, words out. Heavy imports stay inside the functions."""
