"""HTTP server for referring image segmentation."""
