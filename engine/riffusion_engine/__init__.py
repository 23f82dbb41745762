"""Run one graph of a bundle on one device: manifest in, sessions out."""
