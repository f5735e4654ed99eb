"""What can be tried on one machine? Phantom hospitals, partitions, and whole federations."""
