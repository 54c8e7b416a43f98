"""Web page for referring image segmentation."""
