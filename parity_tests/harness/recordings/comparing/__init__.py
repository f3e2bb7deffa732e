"""Compare recordings with each other, and with live models."""
