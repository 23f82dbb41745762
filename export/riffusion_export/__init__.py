"""Turn a diffusers checkpoint into a bundle."""
