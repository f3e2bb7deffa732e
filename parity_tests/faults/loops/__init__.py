"""Training scripts in both frameworks, and faults planted in them."""
