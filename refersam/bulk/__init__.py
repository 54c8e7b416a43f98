"""Many images: in from folders and lists, out as masks, JSON lines or COCO; stops and goes on."""
