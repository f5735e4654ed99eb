"""What does a user of Flower write? The smallest app with a server and a client, after Flower's PyTorch quickstart."""
