"""What does our deployment cost beside stock Flower's? The same payload through both, on loopback, in one run."""
