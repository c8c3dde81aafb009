"""What is known of a source while workers run: its mode, fit, drift and catalogues."""
