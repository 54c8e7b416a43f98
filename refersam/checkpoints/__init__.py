"""Weights that come in: safe reading, key tables, official files, backbones, folders and Hub ids."""
