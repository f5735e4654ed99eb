"""How is each promise checked? One file per promise. A package, so that no other ``tests`` shadows it."""
