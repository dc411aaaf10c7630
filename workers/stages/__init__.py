"""One module a task of the workflow: decoded message and services in, message out."""
