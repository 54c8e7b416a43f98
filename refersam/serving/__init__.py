"""A server that answers pictures and phrases over HTTP."""
