"""What the picker tells about itself: metrics, logs, and the state shown on its debug pages."""
