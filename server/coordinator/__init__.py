"""The coordinator's folder, certificates, proxy, processes and commands."""
