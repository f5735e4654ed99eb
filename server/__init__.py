"""What does the coordinating lab run? Rounds, the server's optimiser, the ServerApp; it never sees a photo."""
