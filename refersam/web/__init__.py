"""A page in the browser: image and phrases in, coloured answers out."""
