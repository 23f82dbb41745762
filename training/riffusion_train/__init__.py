"""Turn tagged audio into a diffusers checkpoint."""
