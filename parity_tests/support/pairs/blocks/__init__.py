"""The blocks of random networks, by what they are made of."""
