"""Loading of weights: safe reading, key tables, official files, backbones, folders and Hub ids."""
