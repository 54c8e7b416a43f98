"""A page in the browser: picture and phrases in, coloured answers out."""
