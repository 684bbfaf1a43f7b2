"""The conditional VAE at work: beats for a person, sweeps, consistency."""
