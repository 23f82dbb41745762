"""Type a prompt, get music: the torch-free Riffusion runtime."""

__version__ = "0.1.0"
