"""What does a hospital run? Photo intake, and the site that trains on what never leaves it."""
