"""What several tests use: small networks, data to train them on, fits and processes."""
