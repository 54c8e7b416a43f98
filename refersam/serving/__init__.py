"""A server that answers images and phrases over HTTP."""
